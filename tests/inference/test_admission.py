"""Who is let in: bounds and estimates by hand."""

from contextlib import ExitStack
from typing import Any

import pytest

from image_classifier.errors import DeadlineExceeded, Overloaded
from image_classifier.inference.admission import Admission


class Clock:
    """Seconds, set by the test."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def admission(clock: Clock | None = None, **changes: Any) -> Admission:
    usual = {"max_in_flight": 1_000, "max_wait_ms": 100, "overload_wait_range_ms": (50, 50)}
    given = {**usual, "answer_interval_ms": 10, "parallel": 1, **changes}
    return Admission(**given, clock=clock or Clock())


@pytest.mark.parametrize(
    ("changes", "admitted"),
    [
        # They wait 0, 10, … 100 ms; a twelfth would wait 110.
        pytest.param({}, 11, id="who-would-wait-too-long-is-refused"),
        pytest.param(
            {"answer_interval_ms": 400, "parallel": 4},
            4,
            id="a-slow-model-answers-4-at-a-time",
        ),
        pytest.param({"max_in_flight": 3, "answer_interval_ms": 0.001}, 3, id="places-are-bounded"),
    ],
)
def test_how_many_of_a_burst_are_let_in(changes: dict[str, Any], admitted: int) -> None:
    door = admission(**changes)

    with ExitStack() as places:
        with pytest.raises(Overloaded):
            while True:
                places.enter_context(door.reserve())
        assert door.in_flight == admitted


def test_work_that_found_a_free_place_does_not_expire() -> None:
    clock = Clock()
    with admission(clock).reserve() as reservation:
        clock.seconds += 60
        reservation.refuse_if_expired()


def test_a_refused_client_learns_when_to_come_back() -> None:
    door = admission(max_in_flight=1)
    with door.reserve():
        for _ in range(300):
            with pytest.raises(Overloaded) as refused:
                door.refuse_if_overloaded()

    # The work of the one in flight and of all 300 that were refused, 3.01 s, in whole seconds.
    assert refused.value.retry_after_s == 4


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
    visits = [door.reserve() for _ in range(4)]
    for visit in visits:
        visit.__enter__()

    for visit in visits[:2]:
        clock.seconds += 0.001
        late = DeadlineExceeded("late")
        assert not visit.__exit__(DeadlineExceeded, late, None)

    assert door.estimated_wait_ms() == pytest.approx(20)
