"""Properties of the batcher under arbitrary traffic, in virtual time."""

import asyncio
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_classifier.inference.batcher import Answer, Batcher
from image_classifier.inference.engine import Batch, Logits
from tests.inference.virtual_time import now, run_in_virtual_time


class Poison(Exception):
    """Raised by the simulated engine for a batch with a poisonous input."""


@dataclass(frozen=True, kw_only=True)
class Client:
    """A request: its arrival, its cancellation (or None), and whether it breaks its batch."""

    arrives: int
    leaves: int | None = None
    poisonous: bool = False


@dataclass(frozen=True, kw_only=True)
class EngineRun:
    """A call of the engine: the clients in it, and its begin and end."""

    ids: tuple[int, ...]
    started: float
    ended: float


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


def logits_of(client: int) -> list[float]:
    """Return the logits of the simulated network, which differ for all clients."""
    return [client * 2.0 + 1, -float(client)]


class Simulation:
    """The history of traffic through a batcher; a batch of n takes `base + each * n` seconds.

    Attributes:
        runs: The calls of the engine.
        outcomes: For each client, its answer or exception.
    """

    def __init__(self, clients: list[Client], cap: int, concurrency: int, base: int, each: int):
        self.clients, self.cap, self.concurrency = clients, cap, concurrency
        self._base, self._each = base, each
        self.runs: list[EngineRun] = []
        self.outcomes = run_in_virtual_time(self._send_requests())
        self.runs.sort(key=lambda run: (run.started, run.ids))

    async def _send_requests(self) -> list[Answer | BaseException]:
        loop = asyncio.get_running_loop()
        batcher = Batcher(
            self._run_batch,
            max_batch_size=self.cap,
            concurrency=self.concurrency,
            clock=loop.time,
        )
        tasks = []
        for number, client in enumerate(self.clients):
            # In turn, since simultaneous timers fire in no particular order.
            await asyncio.sleep(client.arrives - loop.time())
            model_input = np.full((1, 1, 1), number, dtype=np.int64)
            tasks.append(loop.create_task(batcher.submit(model_input)))
            if client.leaves is not None:
                loop.call_at(client.leaves, tasks[-1].cancel)
        return await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_batch(self, batch: Batch) -> Logits:
        ids = tuple(batch[:, 0, 0, 0].tolist())
        started, duration = now(), self._base + self._each * len(ids)
        # Recorded at the start: the simulation ends with the last client, not the last batch.
        self.runs.append(EngineRun(ids=ids, started=started, ended=started + duration))
        await asyncio.sleep(duration)
        if any(self.clients[number].poisonous for number in ids):
            raise Poison
        return np.array([logits_of(number) for number in ids], dtype=np.float32)

    def first_start(self, client: int) -> float | None:
        """Return when the engine first ran the client's input; None if it never did."""
        return min((run.started for run in self.runs if client in run.ids), default=None)

    def running_at(self, time: float) -> int:
        """Return the number of concurrent engine calls."""
        return sum(run.started < time < run.ended for run in self.runs)


def check_outcome(simulation: Simulation, number: int) -> None:
    """Clients who stay get the answer to their own input; only poisonous inputs fail."""
    client, outcome = simulation.clients[number], simulation.outcomes[number]
    runs = [run for run in simulation.runs if number in run.ids]
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


def check_retries(simulation: Simulation, number: int) -> None:
    """An input runs once, and once more by itself after a failed batch."""
    runs = [run.ids for run in simulation.runs if number in run.ids]
    if len(runs) > 1:
        assert any(simulation.clients[other].poisonous for other in runs[0])
        assert len(runs[0]) > 1
        assert runs[1:] == [(number,)]


def check_streams_are_busy(simulation: Simulation, number: int) -> None:
    """No stream is idle while an input waits. Events are at whole seconds."""
    start, client = simulation.first_start(number), simulation.clients[number]
    until = start if start is not None else client.leaves
    assert until is not None
    for second in range(client.arrives, int(until)):
        assert simulation.running_at(second + 0.5) == simulation.concurrency


def check_batches(simulation: Simulation) -> None:
    """Batches are in order of arrival, up to the cap, and take all waiting inputs that fit."""
    numbers: list[int] = []
    formed = []
    for run in simulation.runs:
        if run.ids[0] not in numbers:  # else a retry of a single input
            formed.append(run.ids)
            numbers += run.ids
    assert all(len(batch) <= simulation.cap for batch in formed)
    assert numbers == sorted(numbers)
    for run in simulation.runs:
        assert simulation.running_at(run.started + 0.5) <= simulation.concurrency
    for batch in formed:
        begun = simulation.first_start(batch[0])
        assert begun is not None
        for number, client in enumerate(simulation.clients):
            waiting = client.arrives < begun and (client.leaves is None or client.leaves > begun)
            start = simulation.first_start(number)
            left_behind = waiting and start is not None and start > begun
            assert not left_behind or len(batch) == simulation.cap


@given(
    st.builds(
        Simulation,
        traffic(),
        cap=st.integers(1, 6),
        concurrency=st.integers(1, 3),
        base=st.integers(1, 4),
        each=st.integers(0, 3),
    )
)
@settings(max_examples=100)
def test_under_any_traffic_clients_get_their_own_answers_and_streams_are_busy(
    simulation: Simulation,
) -> None:
    check_batches(simulation)
    for number in range(len(simulation.clients)):
        check_outcome(simulation, number)
        check_retries(simulation, number)
        check_streams_are_busy(simulation, number)
