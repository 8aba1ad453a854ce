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

    def stayed(self, client: int) -> bool:
        return not isinstance(self.history.outcomes[client], asyncio.CancelledError)

    def first_runs(self) -> list[tuple[int, ...]]:
        """Batches as formed; retries item by item left out."""
        seen: set[int] = set()
        formed = []
        for run in self.history.runs:
            if not seen & set(run.ids):
                formed.append(run.ids)
            seen |= set(run.ids)
        return formed


cases = st.builds(
    Case,
    traffic(),
    cap=st.integers(1, 6),
    concurrency=st.integers(1, 3),
    base=st.integers(1, 4),
    each=st.integers(0, 3),
)
thorough = settings(max_examples=60)


@given(cases)
@thorough
def test_every_client_who_stays_gets_the_answer_to_its_own_input(case: Case) -> None:
    for number, outcome in enumerate(case.history.outcomes):
        if case.clients[number].poisonous or not case.stayed(number):
            continue
        assert isinstance(outcome, Answer)
        assert outcome.logits.tolist() == logits_of(number)


@given(cases)
@thorough
def test_only_the_poisonous_input_fails(case: Case) -> None:
    for number, outcome in enumerate(case.history.outcomes):
        if case.stayed(number):
            assert isinstance(outcome, Poison) is case.clients[number].poisonous


@given(cases)
@thorough
def test_an_input_runs_once_and_once_more_alone_after_a_failed_batch(case: Case) -> None:
    for number in range(len(case.clients)):
        runs = [run.ids for run in case.history.runs if number in run.ids]
        if len(runs) > 1:
            assert any(case.clients[one].poisonous for one in runs[0])
            assert len(runs[0]) > 1
            assert runs[1:] == [(number,)]


@given(cases)
@thorough
def test_batches_hold_the_inputs_in_order_of_arrival_up_to_the_cap(case: Case) -> None:
    formed = case.first_runs()

    assert all(len(batch) <= case.cap for batch in formed)
    assert all(list(batch) == sorted(batch) for batch in formed)
    assert [one for batch in formed for one in batch] == sorted(
        one for batch in formed for one in batch
    )


@given(cases)
@thorough
def test_no_more_batches_run_at_a_time_than_there_are_streams(case: Case) -> None:
    for run in case.history.runs:
        # Times are whole seconds, so every change lies between two halves.
        assert case.history.running_at(run.started + 0.5) <= case.concurrency
        assert run.ended > run.started


@given(cases)
@thorough
def test_no_stream_is_idle_while_an_input_waits(case: Case) -> None:
    for number, client in enumerate(case.clients):
        start = case.history.first_start(number)
        until = start if start is not None else client.leaves
        assert until is not None
        for second in range(client.arrives, int(until)):
            assert case.history.running_at(second + 0.5) == case.concurrency


@given(cases)
@thorough
def test_a_batch_leaves_nobody_behind_for_whom_there_is_room(case: Case) -> None:
    starts = [case.history.first_start(number) for number in range(len(case.clients))]
    for batch in case.first_runs():
        begun = starts[batch[0]]
        assert begun is not None
        if len(batch) == case.cap:
            continue
        for number, client in enumerate(case.clients):
            waiting = client.arrives < begun and (client.leaves is None or client.leaves > begun)
            start = starts[number]
            assert not (waiting and start is not None and start > begun)


@given(cases)
@thorough
def test_an_input_whose_client_left_before_its_batch_started_is_not_run(case: Case) -> None:
    for number, client in enumerate(case.clients):
        for run in case.history.runs:
            if number in run.ids and client.leaves is not None and not case.stayed(number):
                assert run.started <= client.leaves


@given(cases)
@thorough
def test_the_waiting_and_running_times_are_those_of_the_batch(case: Case) -> None:
    for number, outcome in enumerate(case.history.outcomes):
        if not isinstance(outcome, Answer):
            continue
        # The last run is the one that answered.
        run = [run for run in case.history.runs if number in run.ids][-1]
        assert outcome.batch_size == len(run.ids)
        assert outcome.queue_ms == pytest.approx((run.started - case.clients[number].arrives) * 1e3)
        assert outcome.infer_ms == pytest.approx((run.ended - run.started) * 1e3)
