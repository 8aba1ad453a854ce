"""The batcher under arbitrary traffic, in virtual time: what holds whatever comes when."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_classifier.inference.batcher import Answer
from tests.inference.simulated_traffic import Client, History, Poison, logits_of, simulate


@st.composite
def traffic(draw: st.DrawFn) -> list[Client]:
    """Clients in order of arrival: bursts and gaps, some who leave, some poisonous."""
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
    """One simulated traffic with what it ran on."""

    def __init__(self, clients: list[Client], cap: int, concurrency: int, base: int, each: int):
        self.clients, self.cap, self.concurrency = clients, cap, concurrency
        self.history: History = simulate(
            clients,
            max_batch_size=cap,
            concurrency=concurrency,
            seconds=lambda count: base + each * count,
        )

    def formed(self) -> list[tuple[int, ...]]:
        """Batches in order of their start; retries item by item left out."""
        seen: set[int] = set()
        formed = []
        for run in self.history.runs:
            if not seen & set(run.ids):
                formed.append(run.ids)
            seen |= set(run.ids)
        return formed


def check_outcome(case: Case, number: int) -> None:
    """Who stays gets the answer to its own input; only a poisonous input fails."""
    client, outcome = case.clients[number], case.history.outcomes[number]
    runs = [run for run in case.history.runs if number in run.ids]
    if isinstance(outcome, asyncio.CancelledError):
        assert client.leaves is not None
        assert all(run.started <= client.leaves for run in runs)
        return
    assert isinstance(outcome, Poison if client.poisonous else Answer)
    if isinstance(outcome, Answer):
        assert outcome.logits.tolist() == logits_of(number)
        # The last run is the one that answered.
        run = runs[-1]
        assert outcome.batch_size == len(run.ids)
        assert outcome.queue_ms == pytest.approx((run.started - client.arrives) * 1e3)
        assert outcome.infer_ms == pytest.approx((run.ended - run.started) * 1e3)


def check_retries(case: Case, number: int) -> None:
    """An input runs once, and once more, alone, after a batch that failed."""
    runs = [run.ids for run in case.history.runs if number in run.ids]
    if len(runs) > 1:
        assert any(case.clients[one].poisonous for one in runs[0])
        assert len(runs[0]) > 1
        assert runs[1:] == [(number,)]


def check_streams_are_busy(case: Case, number: int) -> None:
    """No stream is idle while an input waits. Times are whole seconds: halves lie between."""
    start, client = case.history.first_start(number), case.clients[number]
    until = start if start is not None else client.leaves
    assert until is not None
    for second in range(client.arrives, int(until)):
        assert case.history.running_at(second + 0.5) == case.concurrency


def check_batches(case: Case) -> None:
    """In order of arrival, up to the cap; nobody for whom there is room is left behind."""
    formed = case.formed()
    assert all(len(batch) <= case.cap for batch in formed)
    everybody = [one for batch in formed for one in batch]
    assert everybody == sorted(everybody)
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
def test_whatever_comes_when_each_gets_its_own_answer_and_no_stream_waits(case: Case) -> None:
    check_batches(case)
    for number in range(len(case.clients)):
        check_outcome(case, number)
        check_retries(case, number)
        check_streams_are_busy(case, number)
