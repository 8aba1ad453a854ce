"""The executor: splitting, padding, order, streams, and what it refuses."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_classifier.inference.engine import Batch
from image_classifier.inference.executor import EngineError, split
from tests.inference.fakes import ConstantEngine, SumEngine, executor, expected, inputs


@pytest.mark.parametrize(
    ("count", "sizes", "parts"),
    [
        pytest.param(1, (1,), [1], id="exact"),
        pytest.param(7, (1, 4), [4, 1, 1, 1], id="largest-first"),
        pytest.param(8, (1, 4), [4, 4], id="twice"),
        pytest.param(3, (4,), [4], id="padded"),
        pytest.param(5, (2, 4), [4, 2], id="rest-padded-to-the-smallest-that-holds-it"),
        pytest.param(7, (1, 2, 4), [4, 2, 1], id="binary"),
    ],
)
def test_a_batch_is_split_into_compiled_sizes(
    count: int, sizes: tuple[int, ...], parts: list[int]
) -> None:
    assert split(count, sizes) == parts


@given(st.integers(1, 100), st.sets(st.integers(1, 40), min_size=1, max_size=4))
def test_the_parts_hold_every_input_and_only_the_last_is_padded(
    count: int, sizes: set[int]
) -> None:
    parts = split(count, tuple(sorted(sizes)))

    assert set(parts) <= sizes
    assert sum(parts) >= count
    assert sum(parts[:-1]) < count


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("sizes", [(1,), (4,), (1, 4), (2, 3)])
def test_row_i_of_the_answer_belongs_to_input_i(count: int, sizes: tuple[int, ...]) -> None:
    engine = SumEngine()

    logits = executor(engine, *sizes, streams=2).run(inputs(count))

    assert logits.tolist() == expected(count)
    assert set(engine.sizes) <= set(sizes)


def test_the_order_of_the_answer_is_not_the_order_in_which_parts_end() -> None:
    second_has_ended = threading.Event()

    def first_ends_last(batch: Batch) -> None:
        if batch.flat[0] == 1:
            assert second_has_ended.wait(10)
        else:
            second_has_ended.set()

    logits = executor(SumEngine(first_ends_last), 2, streams=2).run(inputs(4))

    assert logits.tolist() == expected(4)


def test_parts_of_one_size_are_all_of_this_size() -> None:
    engine = SumEngine()

    logits = executor(engine, 1, 4, streams=1).run_in_parts(inputs(6), 4)

    assert logits.tolist() == expected(6)
    assert engine.sizes == [4, 4]


def test_warmup_runs_every_size_on_every_stream() -> None:
    engine = SumEngine()

    executor(engine, 1, 4, streams=3).warmup()

    assert engine.sizes == [1, 1, 1, 4, 4, 4]


def test_no_more_parts_run_at_a_time_than_there_are_streams() -> None:
    # Both of a pair must be inside at once for the barrier to open: two do run, never three.
    pairs = threading.Barrier(2, timeout=10)

    def meet(_: Batch) -> None:
        pairs.wait()

    engine = SumEngine(meet)
    fast = executor(engine, 1, streams=2)

    with ThreadPoolExecutor(6) as callers:
        answers = [callers.submit(fast.run, inputs(1 + number % 3)) for number in range(12)]

        assert [len(answer.result()) for answer in answers] == [1, 2, 3] * 4
    assert engine.most_at_a_time == 2


@pytest.mark.parametrize(
    "logits",
    [
        pytest.param(np.zeros((2, 3), np.float32), id="too-wide"),
        pytest.param(np.zeros((2, 1), np.float32), id="too-narrow"),
        pytest.param(np.zeros((1, 2), np.float32), id="a-row-less"),
        pytest.param(np.zeros((3, 2), np.float32), id="a-row-more"),
        pytest.param(np.zeros((2, 2, 1), np.float32), id="three-dimensions"),
        pytest.param(np.zeros(4, np.float32), id="flat"),
    ],
)
def test_logits_that_do_not_fit_the_batch_are_the_engines_fault(logits: Batch) -> None:
    broken = executor(ConstantEngine(logits.astype(np.float32)), 2)

    with pytest.raises(EngineError, match=r"expected \(2, 2\)"):
        broken.run(inputs(2))
    with pytest.raises(EngineError):
        broken.warmup()


def test_a_fault_in_one_part_is_the_fault_of_the_batch_and_frees_the_stream() -> None:
    def fail(batch: Batch) -> None:
        if 3 in batch:
            raise ZeroDivisionError

    fragile = executor(SumEngine(fail), 1, streams=1)

    with pytest.raises(ZeroDivisionError):
        fragile.run(inputs(4))
    assert fragile.run(inputs(2)).tolist() == expected(2)


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(inputs(1)[0], id="no-batch-dimension"),
        pytest.param(inputs(0), id="empty"),
        pytest.param(inputs(1).transpose(0, 2, 1, 3), id="transposed"),
        pytest.param(inputs(1).astype(np.float32), id="float"),
    ],
)
def test_a_batch_of_another_shape_or_dtype_is_refused_before_the_engine(batch: Batch) -> None:
    engine = SumEngine()

    with pytest.raises(ValueError, match=r"expected uint8 \(n, 2, 3, 1\)"):
        executor(engine, 1).run(batch)
    assert engine.sizes == []


def test_closing_waits_for_what_runs() -> None:
    engine = SumEngine()
    closed = executor(engine, 1, streams=2)
    closed.run(inputs(3))

    closed.close()

    with pytest.raises(RuntimeError, match="shutdown"):
        closed.run(inputs(3))
