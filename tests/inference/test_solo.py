"""An image that is alone runs on all threads; nothing else runs meanwhile."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.manifest import EngineGraph
from image_classifier.artifact.record import Plan
from image_classifier.inference import startup as loading
from image_classifier.inference.engine import Batch, Engine, LoadEngine, Logits
from image_classifier.inference.engines.load import open_graph
from image_classifier.inference.executor import EngineError, Executor, Streams
from image_classifier.inference.machine import this_machine
from image_classifier.inference.plan import plan_for
from image_classifier.inference.startup import (
    SelfCheckFailed,
    check_engine,
    golden_inputs,
    load_executor,
)
from tests.inference.fakes import ConstantEngine, SumEngine, executor, expected, inputs


def test_who_is_first_may_take_all_streams_and_who_is_not_gets_one() -> None:
    streams = Streams(3)

    with streams.hold(lambda: True) as all_held:
        assert all_held
    with streams.hold(lambda: False) as first, streams.hold(lambda: True) as second:
        assert not first
        assert not second
    with streams.hold(lambda: True) as all_held:  # all came back
        assert all_held


def test_whether_it_is_alone_is_asked_when_it_is_its_turn() -> None:
    streams = Streams(1)
    asked: list[str] = []

    def alone() -> bool:
        asked.append("turn")
        return True

    def second() -> None:
        with streams.hold(alone) as all_held:
            assert all_held

    with ThreadPoolExecutor(1) as pool:
        with streams.hold(lambda: False):
            waiting = pool.submit(second)
            assert asked == []
        waiting.result(10)
    assert asked == ["turn"]


def test_a_lone_image_runs_solo() -> None:
    shared, solo = SumEngine(), SumEngine()

    logits = executor(shared, 1, streams=2, single_stream=solo).run(inputs(1), lambda: True)

    assert logits.tolist() == expected(1)
    assert (shared.sizes, solo.sizes) == ([], [1])


@pytest.mark.parametrize(("count", "alone"), [(1, False), (2, True), (3, False)])
def test_images_in_company_run_on_streams(count: int, alone: bool) -> None:
    shared, solo = SumEngine(), SumEngine()

    logits = executor(shared, 1, streams=2, single_stream=solo).run(inputs(count), lambda: alone)

    assert logits.tolist() == expected(count)
    assert (shared.sizes, solo.sizes) == ([1] * count, [])


def test_without_a_solo_engine_a_lone_image_is_padded_as_any_other() -> None:
    engine = SumEngine()

    logits = executor(engine, 4, streams=2).run(inputs(1), lambda: True)

    assert logits.tolist() == expected(1)
    assert engine.sizes == [4]


def test_a_lone_image_takes_a_stream_while_another_runs() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait(batch: Batch) -> None:
        if len(batch) == 2:
            inside.set()
            assert go_on.wait(10)

    shared, solo = SumEngine(wait), SumEngine()
    busy = executor(shared, 2, 4, streams=2, single_stream=solo)
    with ThreadPoolExecutor(1) as other:
        running = other.submit(busy.run, inputs(2))
        assert inside.wait(10)
        shared_before = list(shared.sizes)
        inside.clear()
        lone = threading.Thread(target=busy.run, args=(inputs(1), lambda: True))
        lone.start()
        assert inside.wait(10)  # inside the shared engine, padded to 2, beside the other
        go_on.set()
        lone.join(10)

        assert running.result(10).tolist() == expected(2)
    assert shared_before == [2]
    assert (shared.sizes, solo.sizes) == ([2, 2], [])


def test_nothing_runs_beside_a_solo_image() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait(_: Batch) -> None:
        inside.set()
        assert go_on.wait(10)

    shared, solo = SumEngine(), SumEngine(wait)
    one = executor(shared, 1, streams=2, single_stream=solo)
    with ThreadPoolExecutor(3) as callers:
        first = callers.submit(one.run, inputs(1), lambda: True)
        assert inside.wait(10)
        others = [callers.submit(one.run, inputs(1)) for _ in range(2)]
        assert shared.sizes == []
        go_on.set()

        assert [each.result(10).tolist() for each in (first, *others)] == [expected(1)] * 3
    assert shared.sizes == [1, 1]
    assert solo.sizes == [1]


def test_warmup_runs_solo_too() -> None:
    solo = SumEngine()

    executor(SumEngine(), 1, streams=2, single_stream=solo).warmup()

    assert solo.sizes == [1]


def test_solo_logits_that_do_not_fit_are_the_engines_fault_and_free_the_streams() -> None:
    wide = ConstantEngine(np.zeros((1, 3), np.float32))
    one = executor(SumEngine(), 1, streams=2, single_stream=wide)

    with pytest.raises(EngineError, match=r"expected \(1, 2\)"):
        one.run(inputs(1), lambda: True)
    assert one.run(inputs(2)).tolist() == expected(2)


@pytest.fixture(scope="module")
def artifact(digits_folder: Path) -> Artifact:
    """The example, with a plan that has two streams and runs a lone image solo."""
    opened = open_artifact(digits_folder)
    assert opened.record is not None
    plan = opened.record.plan.model_copy(
        update={"streams": 2, "threads": 2, "batch_sizes": (1,), "single_stream": True}
    )
    return dataclasses.replace(opened, record=opened.record.model_copy(update={"plan": plan}))


def loaded_plans(artifact: Artifact, monkeypatch: pytest.MonkeyPatch, **how: bool) -> list[Plan]:
    plans: list[Plan] = []

    def opened(graph: EngineGraph, root: Path, shape: tuple[int, ...]) -> LoadEngine:
        load = open_graph(graph, root, shape)

        def noted(plan: Plan) -> Engine:
            plans.append(plan)
            return load(plan)

        return noted

    monkeypatch.setattr(loading, "open_graph", opened)
    load_executor(artifact, engine=None, budget_ms=50, **how)
    return plans


def test_the_engine_is_loaded_a_second_time_for_a_lone_image(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = loaded_plans(artifact, monkeypatch, deterministic=False)

    assert [(one.streams, one.threads, one.batch_sizes) for one in plans] == [
        (2, 2, (1,)),
        (1, 2, (1,)),
    ]


def test_for_another_budget_the_plan_comes_from_the_measured_curve(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert artifact.record is not None
    here = artifact.record.model_copy(update={"machine": this_machine()})
    monkeypatch.setattr(loading, "measure_curve", None)  # would fail: it is not measured again

    executor = load_executor(
        dataclasses.replace(artifact, record=here), engine=None, budget_ms=200, deterministic=False
    )

    assert executor.plan == plan_for(here.plan.engine, here.curve(here.plan.engine), 200)


def test_deterministic_answers_have_one_way_only(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = loaded_plans(artifact, monkeypatch, deterministic=True)

    assert [one.streams for one in plans] == [2]


class Through:
    """An executor in the place of an engine; adds to its logits."""

    def __init__(self, executor: Executor, added: float) -> None:
        self._executor = executor
        self._added = np.float32(added)

    def run(self, batch: Batch) -> Logits:
        return self._executor.run(batch) + self._added


def test_the_self_check_runs_solo_too(artifact: Artifact) -> None:
    sound = load_executor(artifact, engine=None, budget_ms=50, deterministic=False)
    manifest, plan = artifact.manifest, sound.plan
    spoiled = Executor(
        Through(sound, 0),
        plan,
        manifest.preprocessing,
        manifest.num_classes,
        single_stream=Through(sound, 0.05),
    )
    goldens = golden_inputs(artifact.golden_samples(), artifact.preprocessing())

    check_engine(artifact, manifest.engine(plan.engine), sound, goldens)
    with pytest.raises(SelfCheckFailed, match="a lone image: a logit is off by"):
        check_engine(artifact, manifest.engine(plan.engine), spoiled, goldens)
