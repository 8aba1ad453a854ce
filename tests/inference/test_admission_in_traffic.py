"""Who is let in: overload, impatient clients and pauses, in simulation."""

import asyncio
import math
import random

import pytest

from image_classifier.errors import Overloaded
from image_classifier.inference.admission import Admission
from tests.inference.virtual_time import now, run_in_virtual_time


class Traffic:
    """Bursts through a door to one server, in virtual time.

    Args:
        patience_s: After these seconds without an answer a client leaves.
        poisson: Intervals are random, always the same ones, instead of fixed.
    """

    def __init__(
        self,
        *,
        service_s: float,
        image_ms: float = 10.0,
        burst: int = 1,
        patience_s: float = math.inf,
        poisson: bool = False,
    ) -> None:
        self.burst = burst
        self.service_s = service_s
        self.image_ms = image_ms
        self.patience_s = patience_s
        self.random = random.Random(0) if poisson else None
        self.waits_s: list[tuple[float, float]] = []
        self.answered: list[float] = []
        self.refused: list[float] = []

    def run(
        self, phases: list[tuple[float, float]], *, pause: tuple[float, float] = (0, 0)
    ) -> None:
        """Send; a phase is (seconds, requests a second). `pause`: (begin, seconds)."""
        run_in_virtual_time(self._run(phases, pause))

    async def _run(self, phases: list[tuple[float, float]], pause: tuple[float, float]) -> None:
        loop = asyncio.get_running_loop()
        self.door = Admission(
            max_inside=512, max_wait_ms=105, image_ms=self.image_ms, parallel=1, clock=loop.time
        )
        server = asyncio.Lock()
        tasks = []
        for seconds, rate in phases:
            for _ in range(int(seconds * rate / self.burst)):
                interval_s = self.burst / rate
                if self.random:
                    interval_s = self.random.expovariate(1 / interval_s)
                await asyncio.sleep(interval_s)
                for _ in range(self.burst):
                    tasks.append(loop.create_task(self._request(server, pause)))
        await asyncio.gather(*tasks)

    async def _request(self, server: asyncio.Lock, pause: tuple[float, float]) -> None:
        came = now()
        try:
            async with asyncio.timeout(self.patience_s):
                with self.door.admit():
                    await server.acquire()
                    self.waits_s.append((came, now() - came))
                    # Work that has begun is not stopped by a client that leaves.
                    await asyncio.shield(asyncio.create_task(self._work(server, pause)))
            self.answered.append(now())
        except Overloaded:
            self.refused.append(came)
        except TimeoutError:
            pass

    async def _work(self, server: asyncio.Lock, pause: tuple[float, float]) -> None:
        begin, seconds = pause
        if begin <= now() < begin + seconds:
            await asyncio.sleep(begin + seconds - now())
        await asyncio.sleep(self.service_s)
        server.release()

    def answered_between(self, begin: float, end: float) -> int:
        return sum(begin < time <= end for time in self.answered)


def test_at_three_times_the_capacity_the_server_never_idles_and_nobody_waits_long() -> None:
    traffic = Traffic(service_s=0.01)

    traffic.run([(20, 300)])

    # Capacity is 100/s; 7 fit: an answer takes 70 ms, 10 ms of it are its own work.
    assert traffic.answered_between(0, 20) >= 0.99 * 2_000
    assert max(wait for _, wait in traffic.waits_s) <= 0.061


@pytest.mark.parametrize("rate", [150, 300, 1_000])
def test_clients_who_leave_do_not_make_the_server_look_faster(rate: float) -> None:
    traffic = Traffic(service_s=0.01, patience_s=0.055, poisson=True)

    traffic.run([(20, rate)])

    # 70 ms are the longest time to an answer: some leave while their image is worked on.
    assert traffic.answered_between(5, 20) >= 0.7 * 1_500


@pytest.mark.parametrize("actual_s", [0.003, 0.03])
def test_the_estimate_follows_a_server_that_is_not_as_fast_as_was_measured(
    actual_s: float,
) -> None:
    traffic = Traffic(service_s=actual_s, image_ms=10)

    traffic.run([(20, 3 / actual_s)])

    settled = [wait for came, wait in traffic.waits_s if came > 5]
    assert max(settled) == pytest.approx(0.075 - actual_s, abs=0.025)
    assert traffic.answered_between(5, 20) >= 0.95 * 15 / actual_s


@pytest.mark.parametrize("pause_s", [0.2, 1, 10])
def test_a_pause_of_the_machine_does_not_shut_the_door(pause_s: float) -> None:
    traffic = Traffic(service_s=0.01, burst=4)

    # Four come every 50 ms; the pause begins while three of them wait.
    traffic.run([(30, 80)], pause=(5.005, pause_s))

    # Two seconds after the pause all is as before it: 80/s offered, 80/s answered.
    after = 5 + pause_s + 2
    assert traffic.answered_between(after, after + 10) >= 0.99 * 800
    assert not [time for time in traffic.refused if after < time < after + 10]


def test_while_nothing_waits_the_gaps_between_answers_say_nothing_of_the_speed() -> None:
    traffic = Traffic(service_s=0.01)

    traffic.run([(20, 4)])

    # Answers come 250 ms apart because requests do.
    assert traffic.door.estimated_wait_ms() == pytest.approx(14, rel=0.01)


def test_a_burst_after_a_quiet_time_is_let_in_as_far_as_it_fits() -> None:
    traffic = Traffic(service_s=0.01)

    traffic.run([(5, 20), (0.05, 980)])

    # 49 within 50 ms: 7 fit at first, and one more with each of 4 answers meanwhile.
    assert 49 - len(traffic.refused) == pytest.approx(11, abs=1)
