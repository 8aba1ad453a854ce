"""Who is let in: bounds and estimates by hand, overload and pauses in simulation."""

import asyncio
from contextlib import ExitStack

import pytest

from errors import Overloaded
from inference.admission import Admission
from tests.inference.virtual_time import now, run_in_virtual_time


class Clock:
    """Seconds, set by the test."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def admission(clock: Clock | None = None, **changes: float) -> Admission:
    given = {"max_inside": 1_000, "max_wait_ms": 100.0, "image_ms": 10.0, "parallel": 1, **changes}
    return Admission(
        max_inside=int(given["max_inside"]),
        max_wait_ms=given["max_wait_ms"],
        image_ms=given["image_ms"],
        parallel=int(given["parallel"]),
        clock=clock or Clock(),
    )


def admitted_at_once(door: Admission) -> int:
    """How many of a burst are let in."""
    with ExitStack() as inside:
        try:
            while True:
                inside.enter_context(door.admit())
        except Overloaded:
            return door.inside


def test_the_wait_is_the_work_of_the_requests_inside_and_its_own() -> None:
    door = admission()
    with ExitStack() as inside:
        waits = []
        for _ in range(5):
            waits.append(door.estimated_wait_ms())
            inside.enter_context(door.admit())

    # 10 ms each, and two fifths more for the slowest in a hundred.
    assert waits == pytest.approx([14, 28, 42, 56, 70])


def test_those_who_would_wait_too_long_are_refused() -> None:
    # They are answered after 14, 28, … 98 ms; an eighth would be after 112.
    assert admitted_at_once(admission()) == 7


@pytest.mark.parametrize("parallel", [1, 4])
def test_a_model_slower_than_the_longest_wait_still_answers_as_many_as_it_works_on(
    parallel: int,
) -> None:
    assert admitted_at_once(admission(image_ms=400, parallel=parallel)) == parallel


def test_the_places_are_bounded_whatever_the_estimate() -> None:
    assert admitted_at_once(admission(max_inside=3, image_ms=0.001)) == 3


def test_a_refusal_takes_no_place() -> None:
    door = admission(max_inside=1)
    with door.admit():
        for _ in range(5):
            with pytest.raises(Overloaded), door.admit():
                pass
        assert door.inside == 1

    assert door.inside == 0


def test_a_failed_request_gives_its_place_back() -> None:
    door = admission(max_inside=1)
    with pytest.raises(KeyError), door.admit():
        raise KeyError

    with door.admit():
        assert door.inside == 1


@pytest.mark.parametrize(
    ("waiting", "seconds"),
    # Each takes 300 ms more, and two fifths: refused are waits of 0.84, 1.68, 2.1 s, told to
    # come back in whole seconds, never 0.
    [(1, 1), (3, 2), (4, 3)],
)
def test_a_refused_client_learns_when_to_come_back(waiting: int, seconds: int) -> None:
    door = admission(max_inside=waiting, max_wait_ms=1e6, image_ms=300)
    with ExitStack() as inside:
        for _ in range(waiting):
            inside.enter_context(door.admit())
        with pytest.raises(Overloaded) as refused, door.admit():
            pass

    assert refused.value.retry_after_s == seconds


class Traffic:
    """Bursts at a fixed interval through a door to one server, in virtual time."""

    def __init__(self, *, service_s: float, image_ms: float = 10.0, burst: int = 1) -> None:
        self.burst = burst
        self.service_s = service_s
        self.image_ms = image_ms
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
                await asyncio.sleep(self.burst / rate)
                for _ in range(self.burst):
                    tasks.append(loop.create_task(self._request(server, pause)))
        await asyncio.gather(*tasks)

    async def _request(self, server: asyncio.Lock, pause: tuple[float, float]) -> None:
        came = now()
        try:
            with self.door.admit():
                async with server:
                    self.waits_s.append((came, now() - came))
                    begin, seconds = pause
                    if begin <= now() < begin + seconds:
                        await asyncio.sleep(begin + seconds - now())
                    await asyncio.sleep(self.service_s)
            self.answered.append(now())
        except Overloaded:
            self.refused.append(came)

    def answered_between(self, begin: float, end: float) -> int:
        return sum(begin < time <= end for time in self.answered)


def test_at_three_times_the_capacity_the_server_never_idles_and_nobody_waits_long() -> None:
    traffic = Traffic(service_s=0.01)

    traffic.run([(20, 300)])

    # Capacity is 100/s; 7 fit: an answer takes 70 ms, 10 ms of it are its own work.
    assert traffic.answered_between(0, 20) >= 0.99 * 2_000
    assert max(wait for _, wait in traffic.waits_s) <= 0.061


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


def test_what_a_slow_moment_taught_is_forgotten_though_nothing_waits_any_more() -> None:
    clock = Clock()
    door = admission(clock)
    visits = [door.admit() for _ in range(4)]
    for visit in visits:
        visit.__enter__()
    for visit in visits:
        clock.seconds += 0.5
        visit.__exit__(None, None, None)
    slow = door.estimated_wait_ms()

    for _ in range(10):
        clock.seconds += 1
        with door.admit():
            pass

    assert slow > 30
    assert door.estimated_wait_ms() == pytest.approx(14, rel=0.01)


def test_while_nothing_waits_the_gaps_between_answers_say_nothing_of_the_speed() -> None:
    traffic = Traffic(service_s=0.01)

    traffic.run([(20, 4)])

    # Answers come 250 ms apart because requests do.
    assert traffic.door.estimated_wait_ms() == pytest.approx(14, rel=0.01)


def test_a_burst_after_a_quiet_time_is_let_in_as_far_as_it_fits() -> None:
    traffic = Traffic(service_s=0.01)

    traffic.run([(5, 20), (0.05, 1_000)])

    # 50 within 50 ms: 7 fit at first, and one more with each of 5 answers meanwhile.
    assert 50 - len(traffic.refused) == pytest.approx(12, abs=1)
