"""The executor: splitting, padding, order, streams, the single-stream engine, refusals."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from image_classifier.inference.engine import Batch, EngineError
from tests.inference.fakes import ConstantEngine, SumEngine, executor, expected, inputs


@pytest.mark.parametrize(
    ("count", "sizes", "parts"),
    [
        pytest.param(7, (1, 4), [4, 1, 1, 1], id="largest-first"),
        pytest.param(3, (4,), [4], id="padded"),
        pytest.param(5, (2, 4), [4, 2], id="rest-padded-to-the-smallest-that-holds-it"),
    ],
)
def test_a_batch_is_split_into_compiled_sizes_and_row_i_of_the_logits_belongs_to_input_i(
    count: int, sizes: tuple[int, ...], parts: list[int]
) -> None:
    second_has_ended = threading.Event()

    def finish_the_first_part_last(batch: Batch) -> None:
        if batch.flat[0] != 1:
            second_has_ended.set()
        elif len(parts) > 1:
            assert second_has_ended.wait(10)

    engine = SumEngine(finish_the_first_part_last)

    logits = executor(engine, *sizes, streams=2).run(inputs(count))

    assert logits.tolist() == expected(count)
    assert sorted(engine.sizes) == sorted(parts)


def test_on_a_gpu_only_batches_larger_than_all_sizes_are_split() -> None:
    engine = SumEngine()
    on_gpu = executor(engine, 1, 4, streams=2, accelerator="a GPU")

    answers = [on_gpu.run(inputs(count)).tolist() for count in (1, 3, 4, 6)]

    assert answers == [expected(count) for count in (1, 3, 4, 6)]
    assert engine.sizes[:3] == [1, 3, 4]
    assert sorted(engine.sizes[3:]) == [1, 1, 4]


def test_warmup_runs_every_size_on_every_stream_and_the_single_stream_engine() -> None:
    engine, single = SumEngine(), SumEngine()

    executor(engine, 1, 4, streams=3, single_stream_engine=single).warmup()

    assert engine.sizes == [1, 1, 1, 4, 4, 4]
    assert single.sizes == [1]


def test_as_many_parts_run_concurrently_as_there_are_streams() -> None:
    pairs = threading.Barrier(2, timeout=10)  # opens only for two concurrent calls
    engine = SumEngine(lambda _: pairs.wait())
    two_streams = executor(engine, 1, streams=2)

    with ThreadPoolExecutor(6) as callers:
        answers = [callers.submit(two_streams.run, inputs(1 + number % 3)) for number in range(12)]

        assert [len(answer.result()) for answer in answers] == [1, 2, 3] * 4
    assert engine.most_at_a_time == 2


@pytest.mark.parametrize("shape", [(2, 3), (1, 2)], ids=str)
def test_logits_of_the_wrong_shape_are_an_engine_error(shape: tuple[int, ...]) -> None:
    broken = executor(ConstantEngine(np.zeros(shape, np.float32)), 2)

    with pytest.raises(EngineError, match=r"expected \(2, 2\)"):
        broken.run(inputs(2))
    with pytest.raises(EngineError):
        broken.warmup()


def test_an_error_in_one_part_fails_the_batch_and_frees_the_stream() -> None:
    def fail(batch: Batch) -> None:
        if 3 in batch:
            raise ZeroDivisionError

    wide = ConstantEngine(np.zeros((1, 3), np.float32))
    fragile = executor(SumEngine(fail), 1, streams=1, single_stream_engine=wide)

    with pytest.raises(ZeroDivisionError):
        fragile.run(inputs(4))
    with pytest.raises(EngineError, match=r"expected \(1, 2\)"):
        fragile.run(inputs(1))
    assert fragile.run(inputs(2)).tolist() == expected(2)


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(inputs(0), id="empty"),
        pytest.param(inputs(1).transpose(0, 2, 1, 3), id="transposed"),
        pytest.param(inputs(1).astype(np.float32), id="float"),
    ],
)
def test_a_batch_of_the_wrong_shape_or_dtype_does_not_reach_the_engine(batch: Batch) -> None:
    engine = SumEngine()

    with pytest.raises(ValueError, match=r"expected uint8 \(n, 2, 3, 1\)"):
        executor(engine, 1).run(batch)
    assert engine.sizes == []


@pytest.mark.parametrize(
    ("count", "more_expected", "sizes", "single_stream_sizes"),
    [
        pytest.param(1, False, [], [1], id="a-single-input"),
        pytest.param(1, True, [4], [], id="more-expected"),
        pytest.param(2, False, [4], [], id="two-inputs"),
    ],
)
def test_a_single_input_takes_the_single_stream_engine_unless_more_are_expected(
    count: int, more_expected: bool, sizes: list[int], single_stream_sizes: list[int]
) -> None:
    engine, single = SumEngine(), SumEngine()
    idle = executor(engine, 4, streams=2, single_stream_engine=single)

    logits = idle.run(inputs(count), more_expected=more_expected)

    assert logits.tolist() == expected(count)
    assert (engine.sizes, single.sizes) == (sizes, single_stream_sizes)


class Gate:
    """Blocks an engine until the test opens it; `reached` is set when a batch has arrived."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, _: Batch) -> None:
        self.reached.set()
        assert self.open.wait(10)


def test_a_single_input_takes_one_stream_while_another_batch_runs() -> None:
    together = threading.Barrier(2, timeout=10)  # opens only for two concurrent calls
    engine, single = SumEngine(lambda _: together.wait()), SumEngine()
    busy = executor(engine, 2, 4, streams=2, single_stream_engine=single)

    with ThreadPoolExecutor(2) as callers:
        pair = callers.submit(busy.run, inputs(2))
        while not engine.sizes:
            pass
        second = callers.submit(busy.run, inputs(1))

        assert pair.result(10).tolist() == expected(2)
        assert second.result(10).tolist() == expected(1)
    assert (engine.sizes, single.sizes) == ([2, 2], [])


@pytest.mark.parametrize(
    ("waiting", "sizes", "single_stream_sizes"),
    [
        pytest.param(1, [], [1, 1], id="a-single-waiting-input-runs-on-it-next"),
        pytest.param(2, [1, 1], [1], id="two-waiting-inputs-share-the-streams"),
    ],
)
def test_nothing_runs_beside_the_single_stream_engine(
    waiting: int, sizes: list[int], single_stream_sizes: list[int]
) -> None:
    gate, pair = Gate(), threading.Barrier(2, timeout=10)
    engine, single = SumEngine(lambda _: pair.wait() and None), SumEngine(gate)
    shared = executor(engine, 1, streams=2, single_stream_engine=single)
    with ThreadPoolExecutor(3) as callers:
        calls = [callers.submit(shared.run, inputs(1))]
        assert gate.reached.wait(10)
        calls += [callers.submit(shared.run, inputs(1)) for _ in range(waiting)]
        while shared.streams.waiting < waiting:
            pass
        assert engine.sizes == []
        gate.open.set()

        assert [call.result(10).tolist() for call in calls] == [expected(1)] * (waiting + 1)
    assert (engine.sizes, single.sizes) == (sizes, single_stream_sizes)
