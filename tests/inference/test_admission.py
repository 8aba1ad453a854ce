"""Who is let in: bounds and estimates by hand."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest

from image_classifier.errors import DeadlineExceeded, Overloaded
from image_classifier.inference.admission import Admission, Reservation


class Clock:
    """Seconds, set by the test."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def admission(clock: Clock | None = None, **changes: Any) -> Admission:
    usual = {"max_in_flight": 1_000, "max_wait_ms": 100, "overload_wait_ms": 50}
    given = {**usual, "answer_interval_ms": 10, "parallel": 1, **changes}
    return Admission(**given, clock=clock or Clock())


def entered(door: Admission, count: int) -> Sequence[AbstractContextManager[Reservation]]:
    """Requests in flight; the test ends them."""
    visits = [door.reserve() for _ in range(count)]
    for visit in visits:
        visit.__enter__()
    return visits


def admitted_at_once(door: Admission) -> int:
    """How many of a burst are let in."""
    with ExitStack() as places:
        try:
            while True:
                places.enter_context(door.reserve())
        except Overloaded:
            return door.in_flight


def overloaded(clock: Clock) -> Admission:
    """Where for 2 s a queue stood and 150 requests a second came, when 100 can be answered."""
    door = admission(clock)
    door.in_flight = 12
    for _ in range(300):
        clock.seconds += 1 / 150
        with pytest.raises(Overloaded):
            door.refuse_if_overloaded()
    assert door.overloaded
    door.in_flight = 0
    return door


def test_the_wait_is_the_work_of_the_requests_before() -> None:
    door = admission(parallel=2)
    with ExitStack() as places:
        waits = []
        for _ in range(5):
            waits.append(door.estimated_wait_ms())
            places.enter_context(door.reserve())

    # Two are worked on at once; each answer frees a place after 10 ms.
    assert waits == pytest.approx([0, 0, 10, 20, 30])


@pytest.mark.parametrize(
    ("door", "admitted"),
    [
        # They wait 0, 10, … 100 ms; a twelfth would wait 110.
        pytest.param(lambda: admission(), 11, id="who-would-wait-too-long-is-refused"),
        # They wait 0, 10, … 50 ms.
        pytest.param(lambda: overloaded(Clock()), 6, id="during-overload-the-shorter-wait-counts"),
        *(
            pytest.param(
                lambda parallel=parallel: admission(answer_interval_ms=400, parallel=parallel),
                parallel,
                id=f"a-slow-model-still-answers-{parallel}-at-a-time",
            )
            for parallel in (1, 4)
        ),
        pytest.param(
            lambda: admission(max_in_flight=3, answer_interval_ms=0.001), 3, id="places-are-bounded"
        ),
    ],
)
def test_how_many_of_a_burst_are_let_in(door: Callable[[], Admission], admitted: int) -> None:
    assert admitted_at_once(door()) == admitted


def test_a_refusal_and_a_question_take_no_place_and_a_failure_gives_its_own_back() -> None:
    door = admission(max_in_flight=1)
    door.refuse_if_overloaded()
    with pytest.raises(KeyError), door.reserve():
        for _ in range(5):
            with pytest.raises(Overloaded), door.reserve():
                pass
        assert door.in_flight == 1
        raise KeyError

    assert door.in_flight == 0


def test_accepted_work_expires_after_the_longest_wait_and_sooner_once_overload_begins() -> None:
    clock = Clock()
    door = admission(clock)
    with door.reserve(), door.reserve() as reservation:
        clock.seconds += 0.09
        reservation.refuse_if_expired()
        door.overloaded = True
        with pytest.raises(Overloaded):
            reservation.refuse_if_expired()
        door.overloaded = False
        clock.seconds += 0.02
        with pytest.raises(Overloaded):
            reservation.refuse_if_expired()


def test_work_that_found_a_free_place_does_not_expire() -> None:
    clock = Clock()
    with admission(clock).reserve() as reservation:
        clock.seconds += 60
        reservation.refuse_if_expired()


@pytest.mark.parametrize(
    ("in_flight", "refused_before", "interval_ms", "seconds"),
    # The work of those in flight and of all that were refused, in whole seconds: 0.6, 1.2, 2.4 s,
    # and 3.01 s.
    [(1, 0, 300, 1), (3, 0, 300, 2), (7, 0, 300, 3), (1, 299, 10, 4)],
)
def test_a_refused_client_learns_when_to_come_back(
    in_flight: int, refused_before: int, interval_ms: float, seconds: int
) -> None:
    door = admission(max_in_flight=in_flight, max_wait_ms=1e6, answer_interval_ms=interval_ms)
    door.in_flight = in_flight
    for _ in range(refused_before + 1):
        with pytest.raises(Overloaded) as refused, door.reserve():
            pass

    assert refused.value.retry_after_s == seconds


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"max_in_flight": 2}, "2 in flight are allowed (CLASSIFIER_MAX_QUEUE); 2 in flight"),
        ({"max_wait_ms": 5}, "waits up to 5 ms are allowed (CLASSIFIER_MAX_WAIT_MS); 1 in flight"),
    ],
)
def test_a_refusal_has_the_limit_its_setting_and_the_load_for_the_log(
    changes: dict[str, float], setting: str
) -> None:
    door = admission(Clock(), **changes)
    door.in_flight = 2 if "max_in_flight" in changes else 1

    with pytest.raises(Overloaded) as refused:
        door.refuse_if_overloaded()

    assert refused.value.numbers.startswith(f"{setting}, estimated wait ")


def test_an_answer_that_comes_too_late_is_no_answer() -> None:
    clock = Clock()
    door = admission(clock)
    visits = entered(door, 4)

    for visit in visits[:2]:
        clock.seconds += 0.001
        late = DeadlineExceeded("late")
        assert not visit.__exit__(DeadlineExceeded, late, None)

    assert door.estimated_wait_ms() == pytest.approx(20)


def test_what_a_slow_moment_taught_is_forgotten_though_nothing_waits_any_more() -> None:
    clock = Clock()
    door = admission(clock)
    visits = entered(door, 4)
    for visit in visits[:-1]:
        clock.seconds += 0.5
        visit.__exit__(None, None, None)
    slow = door.estimated_wait_ms()
    visits[-1].__exit__(None, None, None)

    for _ in range(10):
        clock.seconds += 1
        with door.reserve():
            pass

    assert slow > 30
    door.in_flight = 1
    assert door.estimated_wait_ms() == pytest.approx(10, rel=0.01)
