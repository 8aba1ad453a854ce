"""A service with a few equal servers and one queue behind an admission rule, in virtual time."""

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from image_classifier.errors import Overloaded
from image_classifier.inference.admission import Admission
from tests.inference.virtual_time import now, run_in_virtual_time

Clock = Callable[[], float]


@dataclass(kw_only=True)
class Request:
    """One request; times in seconds. What did not happen is None."""

    arrived: float
    begun: float | None = None
    answered: float | None = None
    refused: float | None = None
    retry_after_s: int | None = None

    @property
    def latency_s(self) -> float:
        """From arrival to the answer; infinite without one."""
        return math.inf if self.answered is None else self.answered - self.arrived


@dataclass(frozen=True, kw_only=True)
class Load:
    """When requests arrive, and how long their clients wait for an answer."""

    arrivals: Sequence[float]
    patience_s: float | None = None


def poisson(rate_per_s: float, seconds: float, *, begin: float = 0, seed: int = 0) -> list[float]:
    """Arrivals at random and independent of each other, the same ones for the same seed."""
    intervals = random.Random(seed)
    arrivals = [begin + intervals.expovariate(rate_per_s)]
    while arrivals[-1] < begin + seconds:
        arrivals.append(arrivals[-1] + intervals.expovariate(rate_per_s))
    return arrivals[:-1]


def bursts(size: int, *, every_s: float, seconds: float) -> list[float]:
    """`size` arrivals at once, again and again."""
    return [
        (number + 0.5) * every_s for number in range(int(seconds / every_s)) for _ in range(size)
    ]


class Service:
    """Answers in order of arrival; `servers` requests at a time.

    Args:
        doors: One admission for each API process, in front of the same servers; requests go to
            them in turn.
        service_s: Seconds of work on one request; a tenth more or less, at random.
        pause: Begin and seconds of a time in which the machine does nothing.
    """

    def __init__(
        self,
        *doors: Callable[[Clock], Admission],
        servers: int,
        service_s: float,
        pause: tuple[float, float] = (0, 0),
    ) -> None:
        self.servers = servers
        self.service_s = service_s
        self._make_doors = doors
        self._pause = pause
        self._random = random.Random(0)

    @property
    def capacity_per_s(self) -> float:
        return self.servers / self.service_s

    def run(self, load: Load) -> "Result":
        """Send the requests; returns when the last one has ended."""
        return run_in_virtual_time(self._run(load))

    def run_clients(self, clients: int, seconds: float) -> "Result":
        """Have clients of whom each sends its next request when it has the answer."""
        return run_in_virtual_time(self._run_clients(clients, seconds))

    async def _run_clients(self, clients: int, seconds: float) -> "Result":
        self._open()
        requests: list[Request] = []

        async def ask() -> None:
            while now() < seconds:
                requests.append(request := Request(arrived=now()))
                await self._send(request, self.doors[0], None)
                if request.refused is not None:
                    await asyncio.sleep(0.05)

        await asyncio.gather(*(ask() for _ in range(clients)))
        return Result(requests, self.capacity_per_s)

    def _open(self) -> None:
        self.doors = [make(asyncio.get_running_loop().time) for make in self._make_doors]
        self._free = asyncio.Semaphore(self.servers)

    async def _run(self, load: Load) -> "Result":
        loop = asyncio.get_running_loop()
        self._open()
        requests, tasks = [], []
        for number, arrival in enumerate(sorted(load.arrivals)):
            await asyncio.sleep(arrival - loop.time())
            requests.append(Request(arrived=now()))
            door = self.doors[number % len(self.doors)]
            tasks.append(loop.create_task(self._send(requests[-1], door, load.patience_s)))
        await asyncio.gather(*tasks)
        return Result(requests, self.capacity_per_s)

    async def _send(self, request: Request, door: Admission, patience_s: float | None) -> None:
        try:
            async with asyncio.timeout(patience_s):
                with door.reserve() as reservation:
                    await self._free.acquire()
                    try:
                        reservation.refuse_if_expired()
                    except Overloaded:
                        self._free.release()
                        raise
                    request.begun = now()
                    # Work that has begun is not stopped by a client that leaves.
                    await asyncio.shield(asyncio.create_task(self._work()))
            request.answered = now()
        except Overloaded as error:
            request.refused = now()
            request.retry_after_s = error.retry_after_s
        except TimeoutError:
            pass

    async def _work(self) -> None:
        begin, seconds = self._pause
        if begin <= now() < begin + seconds:
            await asyncio.sleep(begin + seconds - now())
        await asyncio.sleep(self.service_s * self._random.uniform(0.9, 1.1))
        self._free.release()


class Result:
    """What became of the requests."""

    def __init__(self, requests: list[Request], capacity_per_s: float) -> None:
        self.requests = requests
        self._capacity_per_s = capacity_per_s

    def between(self, begin: float, end: float) -> "Result":
        """The requests that arrived in this time."""
        chosen = [request for request in self.requests if begin <= request.arrived < end]
        return Result(chosen, self._capacity_per_s)

    @property
    def answered_share(self) -> float:
        return sum(request.answered is not None for request in self.requests) / len(self.requests)

    def goodput(self, limit_s: float, seconds: float) -> float:
        """Answers within `limit_s`, divided by what the servers could have answered."""
        in_time = sum(request.latency_s <= limit_s for request in self.requests)
        return in_time / (self._capacity_per_s * seconds)

    def percentile_s(self, percent: float) -> float:
        """Nearest-rank percentile of the latencies of answered requests."""
        answered = (one for one in self.requests if one.answered is not None)
        ordered = sorted(request.latency_s for request in answered)
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
