"""The Kubernetes manifests, rendered by kustomize, are valid, locked down and consistent."""

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from image_classifier.settings import Settings
from tests.imports import ROOT
from tests.programs import run_program

KUBERNETES = ROOT / "deploy" / "kubernetes"
Manifest = dict[str, Any]
OVERLAYS = ("cpu", "gpu", "canary")
pytestmark = pytest.mark.xdist_group("kubectl")  # renders each overlay once
RESNET_50_BYTES = 301e6
"""Idle, in int8 (docs/performance.md)."""


@functools.cache
def rendered(folder: Path) -> list[Manifest]:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    done = run_program("kubectl", "kustomize", folder)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def pod_of(manifests: list[Manifest]) -> tuple[Manifest, Manifest]:
    """Return the pod's specification and its only container."""
    spec: Manifest = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Manifest]:
    return rendered(KUBERNETES / "overlays" / request.param)


def test_a_stock_cluster_accepts_every_kind_and_field(overlay: list[Manifest]) -> None:
    kinds = {manifest["kind"] for manifest in overlay}
    assert kinds <= {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}

    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    )
    for manifest in overlay:
        validate.validate(manifest, "1.30", strict=True)


def test_applying_the_folder_applies_the_cpu_overlay() -> None:
    assert rendered(KUBERNETES) == rendered(KUBERNETES / "overlays" / "cpu")


def test_a_pod_is_unprivileged_and_writes_to_a_limited_volume_only(overlay: list[Manifest]) -> None:
    spec, container = pod_of(overlay)

    assert spec["automountServiceAccountToken"] is False
    # CLASSIFIER_SERVICE_HOST would be an unknown setting, which aborts startup.
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] >= 10_000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    (mount,) = container["volumeMounts"]
    (volume,) = spec["volumes"]
    assert variables["BENTOML_HOME"].startswith(mount["mountPath"] + "/")
    assert mount["name"] == volume["name"]
    assert volume["emptyDir"]["sizeLimit"]
    assert Settings.from_env(variables).lock == "model.lock"  # unknown settings are errors


def test_times_and_sizes_fit_the_settings(overlay: list[Manifest]) -> None:
    spec, container = pod_of(overlay)
    settings = Settings.from_env({})
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
    assert all(probe["timeoutSeconds"] > 2 for probe in probes.values())  # /readyz takes up to 2 s
    assert probes["startup"]["failureThreshold"] >= 60

    words = container["lifecycle"]["preStop"]["exec"]["command"]
    pause_s = float(words[-1].partition("sleep(")[2].rstrip(")"))
    assert spec["terminationGracePeriodSeconds"] >= pause_s + 2 * settings.timeout_ms / 1_000

    limits = container["resources"]["limits"]
    assert limits == container["resources"]["requests"]  # as many threads as cores
    decodes = int(limits["cpu"]) * settings.max_decode_memory_bytes
    gibibytes = int(limits["memory"].removesuffix("Gi"))  # docs/deploy.md, "Memory"
    assert gibibytes * 2**30 >= RESNET_50_BYTES + decodes + settings.max_bodies_bytes


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_selectors_match_the_pods_and_egress_is_denied(name: str) -> None:
    manifests = rendered(KUBERNETES / "overlays" / name)
    labels = of_kind(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]

    policy = of_kind(manifests, "NetworkPolicy")["spec"]
    for selector in (
        of_kind(manifests, "Service")["spec"]["selector"],
        of_kind(manifests, "Deployment")["spec"]["selector"]["matchLabels"],
        of_kind(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        policy["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy.get("egress", []) == []


def test_a_canary_shares_the_service_but_not_the_deployment() -> None:
    stable = rendered(KUBERNETES / "overlays" / "cpu")
    canary = rendered(KUBERNETES / "overlays" / "canary")
    deployment, second = (of_kind(manifests, "Deployment") for manifests in (stable, canary))

    labels = second["spec"]["template"]["metadata"]["labels"]
    assert of_kind(stable, "Service")["spec"]["selector"].items() <= labels.items()
    assert not deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert deployment["metadata"]["name"] != second["metadata"]["name"]
    assert second["spec"]["replicas"] == 1


def with_components(folder: Path, overlay: str, *names: str) -> list[Manifest]:
    """Render an overlay with components, in a copy of the tree."""
    shutil.copytree(KUBERNETES, folder / "kubernetes")
    path = folder / "kubernetes" / "overlays" / overlay / "kustomization.yaml"
    value = yaml.safe_load(path.read_text())
    value["components"] = [f"../../components/{name}" for name in names]
    path.write_text(yaml.safe_dump(value))
    return rendered(path.parent)


def test_the_public_key_is_mounted_at_the_path_of_the_setting(tmp_path: Path) -> None:
    spec, container = pod_of(with_components(tmp_path, "cpu", "signature"))

    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    mount = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}["key"]
    assert variables["CLASSIFIER_PUBLIC_KEY"] == f"{mount}/model.pub"
    (secret,) = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
    assert secret["secretName"] == "image-classifier-key"


@pytest.mark.parametrize(("overlay", "in_flight"), [("cpu", "4"), ("gpu", "64")])
def test_scaling_and_scraping_are_components(tmp_path: Path, overlay: str, in_flight: str) -> None:
    manifests = with_components(tmp_path, overlay, "prometheus-operator", "autoscaling")

    deployment = of_kind(manifests, "Deployment")
    scaler = of_kind(manifests, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaler["metrics"][0]["pods"]["target"]["averageValue"] == in_flight
    assert "replicas" not in deployment["spec"]  # applying again must not reset the autoscaler's
    monitor = of_kind(manifests, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitor.items() <= of_kind(manifests, "Service")["metadata"]["labels"].items()


def test_keda_scales_the_deployment(tmp_path: Path) -> None:
    manifests = with_components(tmp_path, "cpu", "keda")

    deployment = of_kind(manifests, "Deployment")
    scaler = of_kind(manifests, "ScaledObject")["spec"]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
