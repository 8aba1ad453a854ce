"""The start: which plan is loaded, and which self-checks prevent a service from starting."""

import dataclasses
import gc
import mmap
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.evidence import EngineGraph
from image_classifier.artifact.record import LatencyPoint, Plan
from image_classifier.inference import startup
from image_classifier.inference.engine import Batch, Engine, LoadEngine, Logits
from image_classifier.inference.engines.load import open_graph
from image_classifier.inference.executor import Executor
from image_classifier.inference.machine import this_machine
from image_classifier.inference.plan import plan_for
from image_classifier.inference.plan_cache import cached_plan
from image_classifier.inference.startup import (
    SelfCheckFailed,
    check_engine,
    golden_inputs,
    load_executor,
    settle_memory,
)
from tests.inference.fakes import plan

Fault = Callable[[Logits], Logits]


@pytest.fixture(scope="module")
def artifact(digits_folder: Path) -> Artifact:
    """The digits, with a plan of two streams and a single-stream engine."""
    opened = open_artifact(digits_folder)
    plan = opened.record.plan.model_copy(
        update={"streams": 2, "threads": 2, "batch_sizes": (1,), "single_stream": True}
    )
    record = opened.record.model_copy(update={"plan": plan, "machine": this_machine()})
    return dataclasses.replace(opened, record=record)


def start(
    artifact: Artifact, *, budget_ms: float = 50, deterministic: bool = False, processes: int = 1
) -> Executor:
    return load_executor(
        artifact,
        engine=None,
        budget_ms=budget_ms,
        deterministic=deterministic,
        processes=processes,
    )


def offset(logits: Logits) -> Logits:
    return logits + np.float32(0.05)


def reverse_batch(logits: Logits) -> Logits:
    return logits[::-1]


def reverse_one_of_eight(logits: Logits) -> Logits:
    if len(logits) == 8:
        logits[3] = logits[3, ::-1]
    return logits


def replace_by_nan(logits: Logits) -> Logits:
    return logits * np.float32(np.nan)


class FaultyEngine:
    """The certified engine with a fault; counts its inputs."""

    def __init__(self, engine: Engine, fault: Fault | None) -> None:
        self._engine = engine
        self._fault = fault
        self.inputs = 0

    def run(self, batch: Batch) -> Logits:
        self.inputs += len(batch)
        logits = self._engine.run(batch)
        return self._fault(logits) if self._fault else logits


def check(
    artifact: Artifact,
    fault: Fault | None = None,
    single_stream_fault: Fault | None = None,
    *,
    known: bool = False,
    batch_sizes: tuple[int, ...] = (1, 4),
    **changes: Any,
) -> int:
    """Run the self-check with faulty engines; return the number of inputs of the first engine.

    Args:
        changes: Changes of the engine's entry in the evidence.
    """
    entry = artifact.evidence.engine("onnxruntime-fp32").model_copy(update=changes)
    both = plan(engine=entry.name, batch_sizes=batch_sizes, single_stream=True)
    input_spec, classes = artifact.manifest.input, artifact.manifest.num_classes
    engine = open_graph(entry, artifact.root, input_spec.shape)(both)
    engines = FaultyEngine(engine, fault), FaultyEngine(engine, single_stream_fault)
    executor = Executor(engines[0], both, input_spec, classes, engines[1])
    inputs = golden_inputs(artifact, artifact.preprocessing)
    check_engine(artifact, entry, executor, inputs, known=known)
    return engines[0].inputs


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("fault", "single_stream_fault", "message"),
    [
        (offset, None, "batch size 1: a logit is off by"),
        (reverse_batch, None, "batch size 4: a logit is off by"),
        (replace_by_nan, None, "batch size 1: its logits contain NaN"),
        (None, offset, "single stream: a logit is off by"),
    ],
)
def test_an_engine_that_fails_its_gates_is_refused_with_the_place_and_a_remedy(
    artifact: Artifact,
    fault: Fault | None,
    single_stream_fault: Fault | None,
    message: str,
    known: bool,
) -> None:
    with pytest.raises(SelfCheckFailed, match=message) as refused:
        check(artifact, fault, single_stream_fault, known=known)

    assert "import the model again here, or set CLASSIFIER_ENGINE" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("agreement", "passes"), [(1.0, False), (0.95, True)])
def test_an_int8_engine_may_differ_on_as_many_samples_as_at_import(
    artifact: Artifact, agreement: float, passes: bool
) -> None:
    fp32 = artifact.evidence.engine("onnxruntime-fp32")
    certificate = fp32.certificate.model_copy(update={"top1_agreement": agreement})
    int8: dict[str, Any] = {"precision": "int8", "certificate": certificate}

    with nullcontext() if passes else pytest.raises(SelfCheckFailed, match="top-1 agrees on 87"):
        check(artifact, reverse_one_of_eight, known=True, batch_sizes=(8,), **int8)


def test_a_few_samples_are_checked_on_the_machine_of_the_import_with_the_same_library(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check(artifact, known=True) < check(artifact) / 2

    known_calls: list[bool] = []
    monkeypatch.setattr(startup, "check_engine", lambda *_, known: known_calls.append(known))
    start(artifact)
    versions = {"versions": {"openvino": "1", "onnxruntime": "1"}}
    start(dataclasses.replace(artifact, evidence=artifact.evidence.model_copy(update=versions)))

    def missing(_: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", missing)  # as with onnxruntime-gpu
    start(artifact)
    assert known_calls == [True, False, False]


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_single_stream_engine_is_loaded_unless_answers_must_be_deterministic(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    plans: list[Plan] = []

    def open_recording(graph: EngineGraph, root: Path, shape: tuple[int, ...]) -> LoadEngine:
        load = open_graph(graph, root, shape)

        def load_recording(plan: Plan) -> Engine:
            plans.append(plan)
            return load(plan)

        return load_recording

    monkeypatch.setattr(startup, "open_graph", open_recording)
    start(artifact, deterministic=deterministic)

    expected = [(2, 2, (1,))] if deterministic else [(2, 2, (1,)), (1, 2, (1,))]
    assert [(plan.streams, plan.threads, plan.batch_sizes) for plan in plans] == expected


def test_processes_that_share_the_cores_share_the_streams(artifact: Artifact) -> None:
    executor = start(artifact, processes=2)

    assert (executor.plan.streams, executor.plan.threads) == (1, 1)
    assert artifact.record.plan.divided(3).streams == 1


def test_for_another_budget_the_plan_comes_from_the_measured_curve(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = artifact.record.plan.engine
    monkeypatch.setattr(startup, "measure_engine", None)  # a call would fail

    expected = plan_for(engine, artifact.record.curve(engine), 200)
    assert start(artifact, budget_ms=200).plan == expected


def test_processes_that_start_together_on_another_machine_measure_once(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    curve = artifact.record.curve(artifact.record.plan.engine)
    machine = this_machine().model_copy(update={"cpu": "another"})
    record = artifact.record.model_copy(update={"machine": machine})
    elsewhere = dataclasses.replace(artifact, record=record)
    measured = []

    def measure(*_: object, **__: object) -> tuple[LatencyPoint, ...]:
        measured.append(curve)
        time.sleep(0.3)  # until the other process waits
        return curve

    monkeypatch.setattr(startup, "measure_engine", measure)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda artifact: start(artifact).plan, [elsewhere] * 2)

    assert first == second
    assert measured == [curve]


def test_a_plan_is_measured_again_if_its_file_is_incomplete_or_cannot_be_written(
    tmp_path: Path,
) -> None:
    incomplete, unwritable = tmp_path / "plan.json", tmp_path / "plan.json" / "no folder"
    incomplete.write_text(plan().model_dump_json()[:-1])

    assert cached_plan(unwritable, plan) == cached_plan(incomplete, plan) == plan()
    assert Plan.model_validate_json(incomplete.read_bytes()) == plan()


def test_deterministic_logits_are_the_same_bits_in_every_batch(artifact: Artifact) -> None:
    executor = start(artifact, deterministic=True)
    inputs = golden_inputs(artifact, artifact.preprocessing)

    single = np.concatenate([executor.run(item[np.newaxis]) for item in inputs])

    assert len(executor.plan.batch_sizes) == 1
    for count in (2, 3, 7, 30):
        assert executor.run(inputs[:count]).tobytes() == single[:count].tobytes()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mapped_weights_leave_memory_and_come_back_when_they_are_read(tmp_path: Path) -> None:
    graphs, content = tmp_path / "engines", bytes(range(256)) * 4096
    graphs.mkdir()
    (graphs / "network.onnx.data").write_bytes(content)
    with (graphs / "network.onnx.data").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert mapped[:] == content
    assert resident_kb(graphs) == 1024

    try:
        settle_memory(tmp_path)
    finally:
        gc.unfreeze()

    assert resident_kb(graphs) == 0
    assert mapped[:] == content


def resident_kb(folder: Path) -> int:
    """Return how much of the mapped files in a folder is in memory, in KiB."""
    _, mapping = Path("/proc/self/smaps").read_text().split(str(folder))
    _, rest = mapping.split("Rss:", maxsplit=1)
    return int(rest.split()[0])
