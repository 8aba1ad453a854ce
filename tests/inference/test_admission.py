"""Who is let in: bounds and estimates by hand."""

from contextlib import AbstractContextManager, ExitStack

import pytest

from image_classifier.errors import DeadlineExceeded, Overloaded
from image_classifier.inference.admission import Admission


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


def entered(door: Admission, count: int) -> list[AbstractContextManager[None]]:
    """Visits that are inside; the test lets them out."""
    visits = [door.admit() for _ in range(count)]
    for visit in visits:
        visit.__enter__()
    return visits


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


def test_an_answer_that_comes_too_late_is_no_answer() -> None:
    clock = Clock()
    door = admission(clock)
    visits = entered(door, 4)
    before = door.estimated_wait_ms()

    for visit in visits[:2]:
        clock.seconds += 0.001
        late = DeadlineExceeded("late")
        assert not visit.__exit__(DeadlineExceeded, late, None)

    assert door.estimated_wait_ms() == pytest.approx(before * 3 / 5)


def test_what_a_slow_moment_taught_is_forgotten_though_nothing_waits_any_more() -> None:
    clock = Clock()
    door = admission(clock)
    visits = entered(door, 4)
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
