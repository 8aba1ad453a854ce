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
    """One request; times in seconds, None for events that did not happen."""

    arrived: float
    begun: float | None = None
    answered: float | None = None
    refused: float | None = None
    retry_after_s: int | None = None

    @property
    def latency_s(self) -> float:
        """Time from arrival to answer; infinite without an answer."""
        return math.inf if self.answered is None else self.answered - self.arrived


def poisson(rate_per_s: float, seconds: float, *, begin: float = 0, seed: int = 0) -> list[float]:
    """Return random independent arrivals, the same for the same seed."""
    intervals = random.Random(seed)
    arrivals = [begin + intervals.expovariate(rate_per_s)]
    while arrivals[-1] < begin + seconds:
        arrivals.append(arrivals[-1] + intervals.expovariate(rate_per_s))
    return arrivals[:-1]


class Service:
    """Answers `servers` requests concurrently, in order of arrival.

    Args:
        make_admission: Makes the admission with the clock of the simulation.
        service_s: Seconds of work on a request, plus or minus a random tenth.
        pause: Begin and duration of a pause of the machine.
    """

    def __init__(
        self,
        make_admission: Callable[[Clock], Admission],
        *,
        servers: int,
        service_s: float,
        pause: tuple[float, float] = (0, 0),
    ) -> None:
        self.servers = servers
        self.service_s = service_s
        self._make_admission = make_admission
        self._pause = pause
        self._random = random.Random(0)

    @property
    def capacity_per_s(self) -> float:
        return self.servers / self.service_s

    def run(self, arrivals: Sequence[float]) -> "Result":
        """Send requests at these times."""
        return run_in_virtual_time(self._run(arrivals))

    def run_clients(self, clients: int, seconds: float) -> "Result":
        """Run clients who each send the next request after the answer to the last one."""
        return run_in_virtual_time(self._run_clients(clients, seconds))

    async def _run_clients(self, clients: int, seconds: float) -> "Result":
        self._start()
        requests: list[Request] = []

        async def client() -> None:
            while now() < seconds:
                requests.append(request := Request(arrived=now()))
                await self._send(request)
                if request.refused is not None:
                    await asyncio.sleep(0.05)

        await asyncio.gather(*(client() for _ in range(clients)))
        return Result(requests, self.capacity_per_s)

    def _start(self) -> None:
        self.admission = self._make_admission(asyncio.get_running_loop().time)
        self._free = asyncio.Semaphore(self.servers)

    async def _run(self, arrivals: Sequence[float]) -> "Result":
        loop = asyncio.get_running_loop()
        self._start()
        requests, tasks = [], []
        for arrival in sorted(arrivals):
            await asyncio.sleep(arrival - loop.time())
            requests.append(Request(arrived=now()))
            tasks.append(loop.create_task(self._send(requests[-1])))
        await asyncio.gather(*tasks)
        return Result(requests, self.capacity_per_s)

    async def _send(self, request: Request) -> None:
        try:
            with self.admission.reserve() as reservation:
                await self._free.acquire()
                try:
                    reservation.refuse_if_expired()
                except Overloaded:
                    self._free.release()
                    raise
                request.begun = now()
                await asyncio.create_task(self._work())
            request.answered = now()
        except Overloaded as error:
            request.refused = now()
            request.retry_after_s = error.retry_after_s

    async def _work(self) -> None:
        begin, seconds = self._pause
        if begin <= now() < begin + seconds:
            await asyncio.sleep(begin + seconds - now())
        await asyncio.sleep(self.service_s * self._random.uniform(0.9, 1.1))
        self._free.release()


class Result:
    """The requests of a simulation, with their outcomes."""

    def __init__(self, requests: list[Request], capacity_per_s: float) -> None:
        self.requests = requests
        self._capacity_per_s = capacity_per_s

    def between(self, begin: float, end: float) -> "Result":
        """Return the requests that arrived in this time."""
        chosen = [request for request in self.requests if begin <= request.arrived < end]
        return Result(chosen, self._capacity_per_s)

    @property
    def answered_share(self) -> float:
        return sum(request.answered is not None for request in self.requests) / len(self.requests)

    def goodput(self, limit_s: float, seconds: float) -> float:
        """Return the answers within `limit_s` divided by the capacity."""
        in_time = sum(request.latency_s <= limit_s for request in self.requests)
        return in_time / (self._capacity_per_s * seconds)

    def percentile_s(self, percent: float) -> float:
        """Return the nearest-rank percentile of the latencies of answered requests."""
        answered = (request for request in self.requests if request.answered is not None)
        ordered = sorted(request.latency_s for request in answered)
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
