"""The Deployment of the manifests, run by `podman kube play` (`make image-test` starts it)."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.peers.ports import free_port
from tests.deploy.container import podman
from tests.deploy.test_kubernetes import KUBERNETES, of_kind, pod_of, rendered
from tests.imports import SAMPLES
from tests.service.server import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "CLASSIFIER_TEST_IMAGE" not in os.environ, reason="no image was built: make image-test"
    ),
    pytest.mark.skipif(not shutil.which("catatonit"), reason="catatonit, of pods, is not there"),
]


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[dict[str, Any]]:
    """The running container, as podman describes it.

    Podman 4.3 knows no probes without systemd and maps ports only with a bridge: both are left
    out, and the pod uses the network of this machine.
    """
    manifests = rendered(KUBERNETES / "overlays" / "cpu")
    deployment = of_kind(manifests, "Deployment")
    spec, container = pod_of(manifests)
    deployment["spec"]["replicas"] = 1
    spec["hostNetwork"] = True
    container["image"] = os.environ["CLASSIFIER_TEST_IMAGE"]
    container["env"].append({"name": "BENTOML_PORT", "value": str(port)})
    for key in ("ports", "startupProbe", "readinessProbe", "livenessProbe"):
        del container[key]
    path: Path = tmp_path_factory.mktemp("play") / "deployment.yaml"
    path.write_text(yaml.safe_dump(deployment))
    podman("play", "kube", str(path))
    try:
        yield json.loads(podman("inspect", "image-classifier-pod-0-classifier"))[0]
    finally:
        podman("play", "kube", "--down", str(path))


def test_the_deployment_runs_and_answers(played: dict[str, Any], port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(f"{url}/readyz"), 60, "readiness")

    answer = httpx.post(f"{url}/classify", content=(SAMPLES / "7-01.png").read_bytes()).json()

    assert answer["predictions"][0]["label"] == "7"


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_what_the_manifest_says_of_rights_and_limits_holds(played: dict[str, Any]) -> None:
    host = played["HostConfig"]

    assert host["ReadonlyRootfs"] is True
    assert played["EffectiveCaps"] in (None, [])
    assert played["Config"]["User"] == "10001:10001"
    assert host["Memory"] == 2**30
    assert host["NanoCpus"] == 2 * 10**9
    assert "no-new-privileges" in host["SecurityOpt"]
