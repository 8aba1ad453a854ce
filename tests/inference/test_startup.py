"""From an artifact to an executor: which plan is loaded, and what keeps a service from starting."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path

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
from image_classifier.inference.startup import (
    SelfCheckFailed,
    check_engine,
    golden_inputs,
    load_executor,
)
from tests.inference.fakes import plan


@pytest.fixture(scope="module")
def artifact(digits_folder: Path) -> Artifact:
    """The digits, with a plan of two streams and a single-stream engine."""
    opened = open_artifact(digits_folder)
    assert opened.record is not None
    plan = opened.record.plan.model_copy(
        update={"streams": 2, "threads": 2, "batch_sizes": (1,), "single_stream": True}
    )
    record = opened.record.model_copy(update={"plan": plan, "machine": this_machine()})
    return dataclasses.replace(opened, record=record)


class Spoiled:
    """The certified engine with one thing wrong."""

    def __init__(self, engine: Engine, wrong: str) -> None:
        self._engine = engine
        self._wrong = wrong
        self.inputs = 0

    def run(self, batch: Batch) -> Logits:
        self.inputs += len(batch)
        logits = self._engine.run(batch)
        if self._wrong == "off":
            return logits + np.float32(0.05)
        if self._wrong == "batch reversed" and len(batch) > 1:
            return logits[::-1]
        if self._wrong == "one input of eight" and len(batch) == 8:
            logits[3] = logits[3, ::-1]
        if self._wrong == "damaged":
            return logits * np.float32(np.nan)
        return logits


def check(
    artifact: Artifact, wrong: str, single_stream_wrong: str = "nothing", *, known: bool = False
) -> int:
    """Run the self-check of an engine and a single-stream engine that are wrong in these ways.

    Returns how many inputs the first was given.
    """
    entry = artifact.evidence.engine("onnxruntime-fp32")
    both = plan(engine=entry.name, batch_sizes=(1, 4), single_stream=True)
    input_spec, classes = artifact.manifest.input, artifact.manifest.num_classes
    engine = open_graph(entry, artifact.root, input_spec.shape)(both)
    engines = Spoiled(engine, wrong), Spoiled(engine, single_stream_wrong)
    executor = Executor(engines[0], both, input_spec, classes, engines[1])
    inputs = golden_inputs(artifact, artifact.preprocessing)
    check_engine(artifact, entry, executor, inputs, known=known)
    return engines[0].inputs


@pytest.mark.parametrize("known", [False, True], ids=["elsewhere", "where_it_was_imported"])
@pytest.mark.parametrize(
    ("wrong", "single_stream_wrong", "message"),
    [
        ("off", "nothing", "batch size 1: a logit is off by"),
        ("batch reversed", "nothing", "batch size 4: a logit is off by"),
        ("damaged", "nothing", "batch size 1: its logits contain NaN"),
        ("nothing", "off", "single stream: a logit is off by"),
    ],
)
def test_an_engine_that_does_not_is_refused_and_the_message_says_where_and_what_to_do(
    artifact: Artifact, wrong: str, single_stream_wrong: str, message: str, known: bool
) -> None:
    check(artifact, "nothing", known=known)
    with pytest.raises(SelfCheckFailed, match=message) as refused:
        check(artifact, wrong, single_stream_wrong, known=known)

    assert "import the model again here, or set CLASSIFIER_ENGINE" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("agreement", "passes"), [(1.0, False), (0.95, True)])
def test_an_int8_engine_may_differ_on_as_many_samples_as_it_did_at_import(
    artifact: Artifact, agreement: float, passes: bool
) -> None:
    entry = artifact.evidence.engine("onnxruntime-fp32")
    certificate = entry.certificate.model_copy(update={"top1_agreement": agreement})
    plan = Plan(engine=entry.name, streams=1, threads=1, batch_sizes=(8,), service_time_ms=1)
    engine = open_graph(entry, artifact.root, artifact.manifest.input.shape)(plan)
    spoiled = Spoiled(engine, "one input of eight")
    executor = Executor(spoiled, plan, artifact.manifest.input, artifact.manifest.num_classes)
    inputs = golden_inputs(artifact, artifact.preprocessing)
    int8 = entry.model_copy(update={"precision": "int8", "certificate": certificate})

    with nullcontext() if passes else pytest.raises(SelfCheckFailed, match="top-1 agrees on 87"):
        check_engine(artifact, int8, executor, inputs, known=True)


def test_a_few_samples_are_enough_where_the_import_checked_them_all(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check(artifact, "nothing", known=True) < check(artifact, "nothing") / 2

    known: list[bool] = []
    monkeypatch.setattr(startup, "check_engine", lambda *_, **given: known.append(given["known"]))
    load_executor(artifact, engine=None, budget_ms=50, deterministic=False)
    upgraded = artifact.evidence.model_copy(
        update={"versions": {"openvino": "1", "onnxruntime": "1"}}
    )
    load_executor(
        dataclasses.replace(artifact, evidence=upgraded),
        engine=None,
        budget_ms=50,
        deterministic=False,
    )
    assert known == [True, False]

    def missing(_: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", missing)  # as beside onnxruntime-gpu
    load_executor(artifact, engine=None, budget_ms=50, deterministic=False)
    assert known == [True, False, False]


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_single_stream_engine_is_loaded_unless_answers_must_be_deterministic(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    plans: list[Plan] = []

    def recording(graph: EngineGraph, root: Path, shape: tuple[int, ...]) -> LoadEngine:
        load = open_graph(graph, root, shape)

        def loaded(plan: Plan) -> Engine:
            plans.append(plan)
            return load(plan)

        return loaded

    monkeypatch.setattr(startup, "open_graph", recording)
    load_executor(artifact, engine=None, budget_ms=50, deterministic=deterministic)

    expected = [(2, 2, (1,))] if deterministic else [(2, 2, (1,)), (1, 2, (1,))]
    assert [(plan.streams, plan.threads, plan.batch_sizes) for plan in plans] == expected


def test_for_another_budget_the_plan_comes_from_the_measured_curve(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert artifact.record is not None
    engine = artifact.record.plan.engine
    monkeypatch.setattr(startup, "measure_engine", None)  # a call would fail

    executor = load_executor(artifact, engine=None, budget_ms=200, deterministic=False)

    assert executor.plan == plan_for(engine, artifact.record.curve(engine), 200)


def test_processes_that_start_together_on_another_machine_measure_once(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert artifact.record is not None
    curve = artifact.record.curve(artifact.record.plan.engine)
    machine = this_machine().model_copy(update={"cpu": "another"})
    record = artifact.record.model_copy(update={"machine": machine})
    elsewhere = dataclasses.replace(artifact, record=record)
    measured = []

    def measure(*_: object, **__: object) -> tuple[LatencyPoint, ...]:
        measured.append(curve)
        time.sleep(0.3)  # in which the other one comes here
        return curve

    def load(_: int) -> Plan:
        return load_executor(elsewhere, engine=None, budget_ms=50, deterministic=False).plan

    monkeypatch.setattr(startup, "measure_engine", measure)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(load, range(2))

    assert first == second
    assert measured == [curve]


def test_deterministic_logits_are_the_same_bits_in_every_batch(artifact: Artifact) -> None:
    executor = load_executor(artifact, engine=None, budget_ms=50, deterministic=True)
    inputs = golden_inputs(artifact, artifact.preprocessing)

    single = np.concatenate([executor.run(item[np.newaxis]) for item in inputs])

    assert len(executor.plan.batch_sizes) == 1
    for count in (2, 3, 7, 30):
        assert executor.run(inputs[:count]).tobytes() == single[:count].tobytes()
