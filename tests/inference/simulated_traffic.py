"""Traffic through a batcher in virtual time, with everything that happened."""

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
    """One request: when it comes, when it leaves (None: it stays), whether it breaks a batch."""

    arrives: int
    leaves: int | None = None
    poisonous: bool = False


@dataclass(frozen=True, kw_only=True)
class EngineRun:
    """One call of the engine: which clients were in it, from when to when."""

    ids: tuple[int, ...]
    started: float
    ended: float


@dataclass(kw_only=True)
class History:
    """What happened: `outcomes[i]` is client i's answer, or its exception."""

    runs: list[EngineRun] = field(default_factory=list)
    outcomes: list[Answer | BaseException] = field(default_factory=list)

    def first_start(self, client: int) -> float | None:
        """When the engine first ran the client's input; None if it never did."""
        return min((run.started for run in self.runs if client in run.ids), default=None)

    def running_at(self, time: float) -> int:
        """Engine calls under way."""
        return sum(run.started < time < run.ended for run in self.runs)


def logits_of(client: int) -> list[float]:
    """The simulated network: two logits no two clients share."""
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
        ids = tuple(int(one) for one in batch[:, 0, 0, 0])
        started = now()
        takes = seconds(len(ids))
        # Noted at the start: the simulation ends with the last client, not with the last batch.
        history.runs.append(EngineRun(ids=ids, started=started, ended=started + takes))
        await asyncio.sleep(takes)
        if any(clients[one].poisonous for one in ids):
            raise Poison
        return np.array([logits_of(one) for one in ids], dtype=np.float32)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        batcher = Batcher(
            run_batch, max_batch_size=max_batch_size, concurrency=concurrency, clock=loop.time
        )

        async def request(number: int) -> Answer:
            return await batcher.submit(np.full((1, 1, 1), number, dtype=np.int64))

        tasks = []
        for number, client in enumerate(clients):
            # One after the other: timers that are due together fire in no particular order.
            await asyncio.sleep(client.arrives - loop.time())
            tasks.append(loop.create_task(request(number)))
            if client.leaves is not None:
                loop.call_at(client.leaves, tasks[-1].cancel)
        history.outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    run_in_virtual_time(main())
    history.runs.sort(key=lambda run: (run.started, run.ids))
    return history
