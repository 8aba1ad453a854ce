"""The batcher in single situations whose timetable is worked out by hand."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from image_classifier.errors import NotReady, Overloaded
from image_classifier.inference.admission import Admission
from image_classifier.inference.batcher import Answer, Batcher
from image_classifier.inference.engine import Batch, EngineError, Logits
from tests.inference.simulated_traffic import Client, Poison, simulate
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


def batches(
    clients: list[Client], cap: int, concurrency: int
) -> list[tuple[float, tuple[int, ...]]]:
    """(start, ids) of every engine call, each 10 s long."""
    history = simulate(clients, max_batch_size=cap, concurrency=concurrency, seconds=lambda _: 10)
    return [(run.started, run.ids) for run in history.runs]


def test_what_arrives_while_the_stream_is_busy_forms_the_next_batch() -> None:
    clients = [Client(arrives=time) for time in (0, 1, 2, 9, 11)]

    # 0 starts at once and alone; 1, 2 and 3 came before it ended at 10, 4 before 20.
    assert batches(clients, 8, 1) == [(0, (0,)), (10, (1, 2, 3)), (20, (4,))]


def test_a_batch_ends_at_the_cap_and_the_rest_waits() -> None:
    clients = [Client(arrives=0)] * 6

    assert batches(clients, 2, 1) == [(0, (0,)), (10, (1, 2)), (20, (3, 4)), (30, (5,))]


def test_a_second_stream_takes_the_second_arrival_at_once() -> None:
    clients = [Client(arrives=time) for time in (0, 3, 4, 5)]

    # The streams end at 10 and at 13.
    assert batches(clients, 1, 2) == [(0, (0,)), (3, (1,)), (10, (2,)), (13, (3,))]


def test_a_client_who_leaves_while_waiting_makes_room() -> None:
    clients = [Client(arrives=0), Client(arrives=1, leaves=5)] + [Client(arrives=2)] * 2

    assert batches(clients, 2, 1) == [(0, (0,)), (10, (2, 3))]


def test_when_all_who_wait_have_left_the_stream_stays_free_for_the_next() -> None:
    clients = [Client(arrives=0), Client(arrives=1, leaves=5), Client(arrives=30)]

    assert batches(clients, 2, 1) == [(0, (0,)), (30, (2,))]


def test_a_client_who_leaves_while_its_batch_runs_harms_nobody() -> None:
    clients = [Client(arrives=0), Client(arrives=1), Client(arrives=1, leaves=15)]
    history = simulate(clients, max_batch_size=4, concurrency=1, seconds=lambda _: 10)

    assert [run.ids for run in history.runs] == [(0,), (1, 2)]
    assert isinstance(history.outcomes[1], Answer)
    assert isinstance(history.outcomes[2], asyncio.CancelledError)


def test_a_failed_batch_runs_again_item_by_item_on_the_same_stream() -> None:
    clients = [Client(arrives=0), *(Client(arrives=1, poisonous=one == 2) for one in (1, 2, 3))]
    clients.append(Client(arrives=20))

    # (1, 2, 3) fails at 20; 1, 2 and 3 alone take until 50; what came at 20 starts then.
    assert batches(clients, 4, 1) == [
        (0, (0,)), (10, (1, 2, 3)), (20, (1,)), (30, (2,)), (40, (3,)), (50, (4,)),
    ]  # fmt: skip


def test_a_client_who_leaves_after_the_batch_failed_is_not_run_again() -> None:
    clients = [Client(arrives=0), Client(arrives=1), Client(arrives=1, poisonous=True)]
    clients.append(Client(arrives=1, leaves=25))

    assert [ids for _, ids in batches(clients, 4, 1)] == [(0,), (1, 2, 3), (1,), (2,)]


def test_a_batch_of_one_that_fails_is_not_run_again() -> None:
    history = simulate(
        [Client(arrives=0, poisonous=True)], max_batch_size=4, concurrency=1, seconds=lambda _: 10
    )

    assert len(history.runs) == 1
    assert isinstance(history.outcomes[0], Poison)


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_an_answer_of_the_wrong_length_is_an_error_for_all_and_no_hang(rows: int) -> None:
    async def run_batch(batch: Batch) -> Logits:
        return np.zeros((1 if len(batch) == 3 else 2 * rows, 2), np.float32)

    # Input 0 runs alone; 1, 2, 3 together, answered with 1 row, then alone, with 0, 2 or 8.
    outcomes = submit_at_once(run_batch, 4)

    assert [type(outcome) for outcome in outcomes] == [EngineError] * 4


def test_a_batch_too_short_once_is_answered_item_by_item() -> None:
    async def run_batch(batch: Batch) -> Logits:
        answers: Logits = batch[:, 0, 0, :].astype(np.float32)
        return answers if len(batch) == 1 else answers[1:]

    outcomes = submit_at_once(run_batch, 4)

    assert [one.logits[0] for one in outcomes if isinstance(one, Answer)] == [0, 1, 2, 3]


def test_inputs_that_cannot_be_stacked_are_run_alone() -> None:
    async def main() -> list[int]:
        async def run_batch(batch: Batch) -> Logits:
            return np.full((len(batch), 1), batch.shape[1], np.float32)

        batcher = Batcher(run_batch, max_batch_size=4, concurrency=1)
        shapes = [(5, 1, 1), (6, 1, 1), (7, 1, 1)]
        answers = await asyncio.gather(*(batcher.submit(np.zeros(shape)) for shape in shapes))
        return [int(answer.logits[0]) for answer in answers]

    assert run_in_virtual_time(main()) == [5, 6, 7]


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
            overload_wait_ms=50,
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
