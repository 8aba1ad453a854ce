"""The GPU of an engine: recorded at import, compared and required at the start."""

import dataclasses
import importlib.metadata
import sys
from pathlib import Path

import pytest

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.record import LatencyPoint
from image_classifier.inference import startup
from image_classifier.inference.engine import EngineUnavailable
from image_classifier.inference.executor import Executor
from image_classifier.inference.machine import ABSENT_GPU, this_machine
from image_classifier.inference.startup import load_executor
from importer import pipeline
from importer.certification import verify_engines
from importer.progress import Progress
from tests.imports import digits_options, import_quietly, isolated_store

pytestmark = pytest.mark.xdist_group("import for a GPU")  # one worker imports it


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run engines on the CPU of the machine, with an empty cache of plans."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def for_gpu(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Import the example for a GPU called GPU A, without nncf, openvino and a GPU."""
    home = tmp_path_factory.mktemp("for_gpu")
    version = importlib.metadata.version

    def version_without_cpu_engines(package: str) -> str:
        if package in ("nncf", "openvino"):
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    with isolated_store(home / "bentoml"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: False)
        patch.setattr(pipeline, "accelerator_of", lambda kind: "GPU A")
        patch.setattr("importlib.metadata.version", version_without_cpu_engines)
        patch.setitem(sys.modules, "nncf", None)
        patch.setitem(sys.modules, "openvino", None)
        imported = import_quietly(digits_options(device="cuda"), home / "model.lock")
    return open_artifact(home / "bentoml" / "models" / imported.lock.tag.replace(":", "/"))


def measured_on(artifact: Artifact, accelerator: str | None) -> Artifact:
    record = artifact.record.model_copy(update={"machine": this_machine(accelerator)})
    return dataclasses.replace(artifact, record=record)


def start(artifact: Artifact) -> Executor:
    return load_executor(artifact, engine=None, budget_ms=50, deterministic=False)


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace measuring by fixed points; return the list of engines that were measured."""
    measured: list[str] = []

    def measure(engine: str, *_: object, **__: object) -> tuple[LatencyPoint, ...]:
        measured.append(engine)
        return (LatencyPoint(batch_size=1, streams=1, threads=1, latency_ms=1, images_per_s=1_000),)

    monkeypatch.setattr(startup, "measure_engine", measure)
    return measured


def test_an_import_for_a_gpu_records_it_and_needs_no_cpu_engines(
    for_gpu: Artifact,
) -> None:
    assert for_gpu.record.machine == this_machine("GPU A")
    assert [engine.name for engine in for_gpu.evidence.engines] == ["torch-fp32"]
    assert {"nncf", "openvino"}.isdisjoint(for_gpu.evidence.versions)
    assert "torch" in for_gpu.evidence.versions


@pytest.mark.parametrize(
    ("imported_on", "measured"),
    [
        pytest.param("GPU A", [], id="the-same-gpu"),
        pytest.param(ABSENT_GPU, ["torch-fp32"], id="imported-without-a-gpu"),
    ],
)
def test_on_another_machine_than_that_of_the_import_a_plan_is_measured_once(
    monkeypatch: pytest.MonkeyPatch,
    measurements: list[str],
    for_gpu: Artifact,
    imported_on: str,
    measured: list[str],
) -> None:
    monkeypatch.setattr(startup, "accelerator_of", lambda kind: "GPU A")
    artifact = measured_on(for_gpu, imported_on)

    plans = [start(artifact).plan for _ in range(2)]

    assert measurements == measured
    assert plans[0] == plans[1]
    assert measured or plans[0] == artifact.record.plan


def test_a_model_imported_for_a_gpu_does_not_start_without_one(
    measurements: list[str], for_gpu: Artifact
) -> None:
    with pytest.raises(EngineUnavailable) as refused:
        start(measured_on(for_gpu, ABSENT_GPU))

    assert str(refused.value) == (
        "engine torch-fp32: the model was imported for a GPU, and none is found; check the "
        "driver and that this process may use the GPU, or import the model with --device cpu"
    )
    (row,) = verify_engines(measured_on(for_gpu, ABSENT_GPU), Progress(quiet=True))
    assert (row.verdict, "imported for a GPU" in row.reason) == ("unavailable", True)
    assert not measurements


def test_a_cpu_engine_starts_without_the_gpu_of_the_import(
    measurements: list[str], digits_folder: Path
) -> None:
    start(measured_on(open_artifact(digits_folder), "GPU A"))

    assert len(measurements) == 1
