"""Properties of the batcher under arbitrary traffic, in virtual time."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_classifier.inference.batcher import Answer
from tests.inference.simulated_traffic import Client, History, Poison, logits_of, simulate


@st.composite
def traffic(draw: st.DrawFn) -> list[Client]:
    """Return clients in order of arrival: bursts and gaps, some cancelled, some poisonous."""
    clients: list[Client] = []
    time = 0
    for _ in range(draw(st.integers(1, 25))):
        time += draw(st.sampled_from([0, 0, 0, 1, 2, 7]))
        stays = draw(st.sampled_from([None, None, None, 0, 1, 3, 10]))
        clients.append(
            Client(
                arrives=time,
                leaves=None if stays is None else time + stays,
                poisonous=draw(st.sampled_from([False] * 6 + [True])),
            )
        )
    return clients


class Case:
    """A simulation with its parameters."""

    def __init__(self, clients: list[Client], cap: int, concurrency: int, base: int, each: int):
        self.clients, self.cap, self.concurrency = clients, cap, concurrency
        self.history: History = simulate(
            clients,
            max_batch_size=cap,
            concurrency=concurrency,
            seconds=lambda count: base + each * count,
        )


def check_outcome(case: Case, number: int) -> None:
    """Clients who stay get the answer to their own input; only poisonous inputs fail."""
    client, outcome = case.clients[number], case.history.outcomes[number]
    runs = [run for run in case.history.runs if number in run.ids]
    if isinstance(outcome, asyncio.CancelledError):
        assert client.leaves is not None
        assert all(run.started <= client.leaves for run in runs)
        return
    assert isinstance(outcome, Poison if client.poisonous else Answer)
    if isinstance(outcome, Answer):
        assert outcome.logits.tolist() == logits_of(number)
        run = runs[-1]  # gave the answer
        assert outcome.batch_size == len(run.ids)
        assert outcome.queue_ms == pytest.approx((run.started - client.arrives) * 1e3)
        assert outcome.infer_ms == pytest.approx((run.ended - run.started) * 1e3)


def check_retries(case: Case, number: int) -> None:
    """An input runs once, and once more by itself after a failed batch."""
    runs = [run.ids for run in case.history.runs if number in run.ids]
    if len(runs) > 1:
        assert any(case.clients[other].poisonous for other in runs[0])
        assert len(runs[0]) > 1
        assert runs[1:] == [(number,)]


def check_streams_are_busy(case: Case, number: int) -> None:
    """No stream is idle while an input waits. Events are at whole seconds."""
    start, client = case.history.first_start(number), case.clients[number]
    until = start if start is not None else client.leaves
    assert until is not None
    for second in range(client.arrives, int(until)):
        assert case.history.running_at(second + 0.5) == case.concurrency


def check_batches(case: Case) -> None:
    """Batches are in order of arrival, up to the cap, and take all waiting inputs that fit."""
    numbers: list[int] = []
    formed = []
    for run in case.history.runs:
        if run.ids[0] not in numbers:  # else a retry of a single input
            formed.append(run.ids)
            numbers += run.ids
    assert all(len(batch) <= case.cap for batch in formed)
    assert numbers == sorted(numbers)
    for run in case.history.runs:
        assert case.history.running_at(run.started + 0.5) <= case.concurrency
    for batch in formed:
        begun = case.history.first_start(batch[0])
        assert begun is not None
        for number, client in enumerate(case.clients):
            waiting = client.arrives < begun and (client.leaves is None or client.leaves > begun)
            start = case.history.first_start(number)
            left_behind = waiting and start is not None and start > begun
            assert not left_behind or len(batch) == case.cap


@given(
    st.builds(
        Case,
        traffic(),
        cap=st.integers(1, 6),
        concurrency=st.integers(1, 3),
        base=st.integers(1, 4),
        each=st.integers(0, 3),
    )
)
@settings(max_examples=100)
def test_under_any_traffic_clients_get_their_own_answers_and_streams_are_busy(case: Case) -> None:
    check_batches(case)
    for number in range(len(case.clients)):
        check_outcome(case, number)
        check_retries(case, number)
        check_streams_are_busy(case, number)
