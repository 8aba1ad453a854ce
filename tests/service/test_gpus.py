"""Processes of the services, and the GPU that each sees, on simulated hosts."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from image_classifier.inference.machine import usable_cores
from tests.service.places import NewPlace, Place

PROGRAM = """
import os, sys
import service
from bentoml._internal.context import server_context

# The supervisor imports only this much, to start fast and stay small.
assert not {"fastapi", "uvicorn", "torch"} & sys.modules.keys()

def stop(*_, **__):
    raise SystemExit(os.environ.get("CUDA_VISIBLE_DEVICES"))

service.startup.load_executor = stop
config = service.ModelRunner.config
topology = "embedded" if service.embedded else "runner"
print(topology, config["workers"], config["resources"])
for worker in (1, 2, 3):
    server_context.worker_index = worker
    if service.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(service.gpus)
    try:
        service.ModelRunner.inner()
    except SystemExit as stopped:
        print(stopped, "torch" in sys.modules)
"""


def recorded(place: Place, change: Callable[[Any], None]) -> Place:
    """Change the record of a place's model."""
    path = place.artifact / "record.json"
    record = json.loads(path.read_bytes())
    change(record)
    path.write_text(json.dumps(record))
    return place


@pytest.fixture(scope="module")
def for_gpu(new_place: NewPlace) -> Place:
    return recorded(new_place(), lambda record: record["machine"].update(accelerator="GPU A"))


@pytest.mark.parametrize(
    ("visible", "topology", "workers", "devices"),
    [
        pytest.param("0", "runner", 1, ["0", "0", "0"], id="one-gpu"),
        pytest.param("GPU-a,MIG-b", "runner", 2, ["GPU-a", "MIG-b", "GPU-a"], id="and-a-slice"),
        pytest.param("", "embedded", 1, ["", "", ""], id="none"),
    ],
)
def test_a_model_for_gpus_has_a_runner_for_each_visible_one(
    for_gpu: Place,
    monkeypatch: pytest.MonkeyPatch,
    visible: str,
    topology: str,
    workers: int,
    devices: list[str],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    first, *rest = for_gpu.run("-c", PROGRAM).splitlines()

    assert first == f"{topology} {workers} {{'gpu': 1}}"
    assert rest == [f"{device} False" for device in devices]


def test_a_model_for_cpus_ignores_gpus(imported: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")

    first, *_ = imported.run("-c", PROGRAM).splitlines()

    assert first == "embedded 1 {}"


def test_a_small_network_gets_an_api_process_per_core(new_place: NewPlace) -> None:
    def take_little(record: dict[str, Any]) -> None:
        for attempt in record["attempts"]:
            for point in attempt["curve"]:
                point.update(latency_ms=1e-3)

    place = recorded(new_place(), take_little)
    program = ("-c", "import service; print(service.ImageClassifier.config['workers'])")

    assert place.run(*program) == str(min(usable_cores(), 4))
    assert place.run(*program, workers=3) == "3"
    assert place.run(*program, topology="runner") == str(usable_cores())
