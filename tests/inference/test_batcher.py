"""The batcher with runners that fail, answer wrongly or come too late."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from image_classifier.errors import NotReady, Overloaded
from image_classifier.inference.admission import Admission
from image_classifier.inference.batcher import Answer, Batcher
from image_classifier.inference.engine import Batch, EngineError, Logits
from tests.inference.virtual_time import run_in_virtual_time


def submit_at_once(
    run_batch: Callable[[Batch], Awaitable[Logits]], count: int
) -> list[Answer | BaseException]:
    """Outcomes of inputs 0, 1, … that come together, on one stream with room for all."""

    async def main() -> list[Answer | BaseException]:
        batcher = Batcher(run_batch, max_batch_size=count, concurrency=1)
        # The first takes the stream; the others form one batch behind it.
        inputs = (np.full((1, 1, 1), number, np.float32) for number in range(count))
        return await asyncio.gather(
            *(batcher.submit(one) for one in inputs), return_exceptions=True
        )

    return run_in_virtual_time(main())


@pytest.mark.parametrize("rows", [0, 2])
def test_an_answer_of_the_wrong_length_is_an_error_for_all_and_no_hang(rows: int) -> None:
    async def run_batch(batch: Batch) -> Logits:
        return np.zeros((1 if len(batch) == 3 else rows, 2), np.float32)

    # Input 0 runs alone; 1, 2, 3 together, answered with 1 row, then alone, with 0 or 2.
    outcomes = submit_at_once(run_batch, 4)

    assert [type(outcome) for outcome in outcomes] == [EngineError] * 4


def test_nobody_waits_for_an_engine_that_was_ended() -> None:
    async def run_batch(batch: Batch) -> Logits:
        await asyncio.sleep(1)
        raise asyncio.CancelledError  # what a pool shut down with work in it answers

    outcomes = submit_at_once(run_batch, 3)

    assert [type(outcome) for outcome in outcomes] == [EngineError] * 3


def test_a_batch_that_finds_no_runner_fails_at_once_and_is_not_tried_item_by_item() -> None:
    calls: list[int] = []

    async def unreachable(batch: Batch) -> Logits:
        calls.append(len(batch))
        raise NotReady("the model cannot be reached")

    outcomes = submit_at_once(unreachable, 4)

    assert [type(outcome) for outcome in outcomes] == [NotReady] * 4
    assert calls == [1, 3]  # the first found the stream free, the rest formed a batch


def test_an_input_whose_reservation_expires_before_its_batch_starts_is_not_run() -> None:
    sizes: list[int] = []

    async def run_batch(batch: Batch) -> Logits:
        sizes.append(len(batch))
        await asyncio.sleep(0.2)
        return np.zeros((len(batch), 1), np.float32)

    async def main() -> list[Answer | BaseException]:
        admission = Admission(
            max_in_flight=9,
            max_wait_ms=100,
            overload_wait_range_ms=(50, 50),
            answer_interval_ms=1,
            parallel=0,
            clock=asyncio.get_running_loop().time,
        )
        batcher = Batcher(run_batch, max_batch_size=1, concurrency=1)
        with admission.reserve() as reservation:
            both = (batcher.submit(np.zeros((1, 1, 1)), reservation) for _ in range(2))
            return await asyncio.gather(*both, return_exceptions=True)

    outcomes = run_in_virtual_time(main())

    assert [type(outcome) for outcome in outcomes] == [Answer, Overloaded]
    assert sizes == [1]
