"""The batcher with runners that fail, give wrong logits or are too slow."""

import asyncio

import numpy as np
import pytest

from image_classifier.errors import NotReady, Overloaded
from image_classifier.inference.admission import Admission
from image_classifier.inference.batcher import Answer, Batcher
from image_classifier.inference.engine import Batch, EngineError, Logits
from tests.inference.virtual_time import run_in_virtual_time


async def one_row_too_few(batch: Batch) -> Logits:
    return np.zeros((len(batch) - 1, 2), np.float32)


async def one_row_too_many(batch: Batch) -> Logits:
    return np.zeros((len(batch) + 1, 2), np.float32)


async def unreachable(batch: Batch) -> Logits:
    raise NotReady("the model cannot be reached")


@pytest.mark.parametrize(
    ("run", "error", "sizes"),
    [
        # The first input finds a free stream, the others form a batch, then run one by one.
        (one_row_too_few, EngineError, [1, 3, 1, 1, 1]),
        (one_row_too_many, EngineError, [1, 3, 1, 1, 1]),
        # Not caused by an input, so not retried.
        (unreachable, NotReady, [1, 3]),
    ],
)
def test_every_input_of_a_failed_batch_gets_an_error(
    run: object, error: type[Exception], sizes: list[int]
) -> None:
    actual: list[int] = []

    async def run_batch(batch: Batch) -> Logits:
        actual.append(len(batch))
        await asyncio.sleep(1)
        logits: Logits = await run(batch)  # type: ignore[operator]
        return logits

    async def main() -> list[Answer | BaseException]:
        batcher = Batcher(run_batch, max_batch_size=4, concurrency=1)
        inputs = np.zeros((4, 1, 1, 1), np.float32)
        return await asyncio.gather(*map(batcher.submit, inputs), return_exceptions=True)

    outcomes = run_in_virtual_time(main())

    assert [type(outcome) for outcome in outcomes] == [error] * 4
    assert actual == sizes


def test_an_input_whose_reservation_expired_is_not_run() -> None:
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
