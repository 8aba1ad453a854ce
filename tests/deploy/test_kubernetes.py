"""The Kubernetes manifests as kustomize renders them: valid, locked down, consistent."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from image_classifier.settings import Settings
from tests.imports import PATIENCE_S, ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "gpu", "canary")
FOREIGN = {"ServiceMonitor", "ScaledObject"}
"""Kinds of operators: their schemas are not Kubernetes'."""
RESNET_50_BYTES = 301e6
"""Idle, in int8 (docs/performance.md)."""
Manifest = dict[str, Any]


def rendered(folder: Path) -> list[Manifest]:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not there")
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [one for one in manifests if one["kind"] == kind]
    return found


def pod_of(manifests: list[Manifest]) -> tuple[Manifest, Manifest]:
    """Specification of the pod, and its only container."""
    spec: Manifest = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Manifest]:
    return rendered(KUBERNETES / "overlays" / request.param)


def test_an_overlay_fits_the_schemas_to_the_last_field(overlay: list[Manifest]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not there")

    for manifest in overlay:
        if manifest["kind"] not in FOREIGN:
            validate.validate(manifest, "1.30", strict=True)


def test_a_pod_has_no_rights(overlay: list[Manifest]) -> None:
    spec, container = pod_of(overlay)

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] >= 10_000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_what_is_written_goes_to_a_volume_with_a_limit(overlay: list[Manifest]) -> None:
    spec, container = pod_of(overlay)
    variables = {one["name"]: one["value"] for one in container["env"]}
    (mount,) = container["volumeMounts"]
    (volume,) = spec["volumes"]

    assert variables["BENTOML_HOME"].startswith(mount["mountPath"] + "/")
    assert mount["name"] == volume["name"]
    assert volume["emptyDir"]["sizeLimit"]


def test_services_of_the_namespace_set_no_variables(overlay: list[Manifest]) -> None:
    # CLASSIFIER_SERVICE_HOST would be an unknown setting, which stops the start.
    assert pod_of(overlay)[0]["enableServiceLinks"] is False


def test_a_pod_ends_after_its_longest_request(overlay: list[Manifest]) -> None:
    spec, container = pod_of(overlay)
    words = container["lifecycle"]["preStop"]["exec"]["command"]
    pause_s = float(words[-1].partition("sleep(")[2].rstrip(")"))

    longest_s = Settings.from_env({}).timeout_ms / 1_000
    assert spec["terminationGracePeriodSeconds"] >= pause_s + 2 * longest_s


def test_probes_ask_what_they_are_for_and_give_up(overlay: list[Manifest]) -> None:
    container = pod_of(overlay)[1]

    paths = {
        name: container[f"{name}Probe"]["httpGet"]["path"]
        for name in ("startup", "readiness", "liveness")
    }
    assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
    assert all(container[f"{name}Probe"]["timeoutSeconds"] > 2 for name in paths)
    assert container["startupProbe"]["failureThreshold"] >= 60


def test_limits_equal_requests_so_that_threads_fit_the_cores(overlay: list[Manifest]) -> None:
    resources = pod_of(overlay)[1]["resources"]

    assert resources["limits"] == resources["requests"]


def test_the_largest_images_at_a_time_fit_the_memory(overlay: list[Manifest]) -> None:
    _, container = pod_of(overlay)
    limits = container["resources"]["limits"]
    settings = Settings.from_env({})
    decodes = int(limits["cpu"]) * settings.max_decode_memory_bytes

    # docs/deploy.md, "Memory".
    gibibytes = int(limits["memory"].removesuffix("Gi"))
    assert gibibytes * 2**30 >= RESNET_50_BYTES + decodes + settings.max_bodies_bytes


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_selectors_find_the_pods(name: str) -> None:
    manifests = rendered(KUBERNETES / "overlays" / name)
    labels = of_kind(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]

    selectors = [
        of_kind(manifests, "Service")["spec"]["selector"],
        of_kind(manifests, "Deployment")["spec"]["selector"]["matchLabels"],
        of_kind(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
    monitor = of_kind(manifests, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitor.items() <= of_kind(manifests, "Service")["metadata"]["labels"].items()
    target = of_kind(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["name"] == of_kind(manifests, "Deployment")["metadata"]["name"]


def test_no_connection_leaves_a_pod() -> None:
    policy = of_kind(rendered(KUBERNETES / "overlays" / "cpu"), "NetworkPolicy")["spec"]

    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy.get("egress", []) == []


def test_a_canary_stands_behind_the_same_service_and_is_not_the_stable_one() -> None:
    stable = rendered(KUBERNETES / "overlays" / "cpu")
    canary = rendered(KUBERNETES / "overlays" / "canary")
    one, other = (of_kind(manifests, "Deployment") for manifests in (stable, canary))

    labels = other["spec"]["template"]["metadata"]["labels"]
    assert of_kind(stable, "Service")["spec"]["selector"].items() <= labels.items()
    assert not one["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert one["metadata"]["name"] != other["metadata"]["name"]
    assert other["spec"]["replicas"] == 1


def with_components(folder: Path, *names: str) -> list[Manifest]:
    """The CPU overlay with components, written beside a copy of the tree."""
    shutil.copytree(KUBERNETES, folder / "kubernetes")
    overlay = folder / "kubernetes" / "overlays" / "cpu" / "kustomization.yaml"
    value = yaml.safe_load(overlay.read_text())
    value["components"] = [f"../../components/{name}" for name in names]
    overlay.write_text(yaml.safe_dump(value))
    return rendered(overlay.parent)


def test_the_key_of_the_signature_is_mounted_where_the_setting_says(tmp_path: Path) -> None:
    spec, container = pod_of(with_components(tmp_path, "signature"))

    variables = {one["name"]: one["value"] for one in container["env"]}
    mount = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}["key"]
    assert variables["CLASSIFIER_PUBLIC_KEY"] == f"{mount}/model.pub"
    (secret,) = [one["secret"] for one in spec["volumes"] if "secret" in one]
    assert secret["secretName"] == "image-classifier-key"


def test_keda_takes_the_place_of_the_autoscaler(tmp_path: Path) -> None:
    manifests = with_components(tmp_path, "keda")

    assert "HorizontalPodAutoscaler" not in {one["kind"] for one in manifests}
    target = of_kind(manifests, "ScaledObject")["spec"]["scaleTargetRef"]["name"]
    assert target == of_kind(manifests, "Deployment")["metadata"]["name"]


def test_settings_in_the_manifests_are_settings(overlay: list[Manifest]) -> None:
    variables = {one["name"]: one["value"] for one in pod_of(overlay)[1]["env"]}

    assert Settings.from_env(variables).lock == "model.lock"  # an unknown one is an error
