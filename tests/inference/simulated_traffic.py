"""Simulated traffic through a batcher, in virtual time, and its history."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

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


@dataclass(kw_only=True)
class History:
    """The runs of the engine; `outcomes[i]` is the answer of client i, or its exception."""

    runs: list[EngineRun] = field(default_factory=list)
    outcomes: list[Answer | BaseException] = field(default_factory=list)

    def first_start(self, client: int) -> float | None:
        """Return when the engine first ran the client's input; None if it never did."""
        return min((run.started for run in self.runs if client in run.ids), default=None)

    def running_at(self, time: float) -> int:
        """Return the number of concurrent engine calls."""
        return sum(run.started < time < run.ended for run in self.runs)


def logits_of(client: int) -> list[float]:
    """Return the logits of the simulated network, which differ for all clients."""
    return [client * 2.0 + 1, -float(client)]


def simulate(
    clients: list[Client],
    *,
    max_batch_size: int,
    concurrency: int,
    seconds: Callable[[int], int],
) -> History:
    """Run the traffic; a batch of n takes `seconds(n)`."""
    history = History()

    async def run_batch(batch: Batch) -> Logits:
        ids = tuple(batch[:, 0, 0, 0].tolist())
        started, duration = now(), seconds(len(ids))
        # Recorded at the start: the simulation ends with the last client, not the last batch.
        history.runs.append(EngineRun(ids=ids, started=started, ended=started + duration))
        await asyncio.sleep(duration)
        if any(clients[number].poisonous for number in ids):
            raise Poison
        return np.array([logits_of(number) for number in ids], dtype=np.float32)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        batcher = Batcher(
            run_batch, max_batch_size=max_batch_size, concurrency=concurrency, clock=loop.time
        )

        async def request(number: int) -> Answer:
            return await batcher.submit(np.full((1, 1, 1), number, dtype=np.int64))

        tasks = []
        for number, client in enumerate(clients):
            # In turn, since simultaneous timers fire in no particular order.
            await asyncio.sleep(client.arrives - loop.time())
            tasks.append(loop.create_task(request(number)))
            if client.leaves is not None:
                loop.call_at(client.leaves, tasks[-1].cancel)
        history.outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    run_in_virtual_time(main())
    history.runs.sort(key=lambda run: (run.started, run.ids))
    return history
