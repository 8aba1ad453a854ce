"""Admission: bounds and estimates worked out by hand."""

import asyncio
import resource
from contextlib import ExitStack
from pathlib import Path
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


def admission_with(clock: Clock | None = None, **changes: Any) -> Admission:
    default = {"max_in_flight": 1_000, "max_wait_ms": 100, "overload_wait_range_ms": (50, 50)}
    arguments = {**default, "answer_interval_ms": 10, "parallel": 1, **changes}
    return Admission(**arguments, clock=clock or Clock())


@pytest.mark.parametrize(
    ("changes", "admitted", "numbers"),
    [
        # They wait 0, 10, … 100 ms; a twelfth would wait 110.
        ({}, 11, "waits up to 100 ms are allowed (CLASSIFIER_MAX_WAIT_MS); 11 in flight"),
        # Slower than the longest wait, but as many as run concurrently are always admitted.
        ({"answer_interval_ms": 400, "parallel": 4}, 4, "waits up to 100 ms are allowed"),
        ({"max_in_flight": 3}, 3, "3 in flight are allowed (CLASSIFIER_MAX_QUEUE); 3 in flight"),
    ],
)
def test_a_burst_is_admitted_up_to_the_limits_which_the_refusal_names(
    changes: dict[str, Any], admitted: int, numbers: str
) -> None:
    admission = admission_with(**changes)

    with ExitStack() as places:
        with pytest.raises(Overloaded) as refused:
            while True:
                places.enter_context(admission.reserve())
        assert admission.in_flight == admitted
    assert refused.value.numbers.startswith(numbers)


def test_a_request_that_need_not_wait_does_not_expire() -> None:
    clock = Clock()
    with admission_with(clock).reserve() as reservation:
        clock.seconds += 60
        reservation.refuse_if_expired()


def test_retry_after_covers_the_requests_in_flight_and_the_refused_ones() -> None:
    admission = admission_with(max_in_flight=1)
    with admission.reserve():
        for _ in range(300):
            with pytest.raises(Overloaded) as refused:
                admission.refuse_if_overloaded()

    # 301 answers at 10 ms each are 3.01 s, rounded up to whole seconds.
    assert refused.value.retry_after_s == 4


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), asyncio.CancelledError()])
def test_requests_that_time_out_or_whose_clients_disconnect_do_not_count_as_answers(
    error: BaseException,
) -> None:
    clock = Clock()
    admission = admission_with(clock)
    places = [admission.reserve() for _ in range(4)]
    for place in places:
        place.__enter__()

    for place in places[:2]:
        clock.seconds += 0.001
        assert not place.__exit__(type(error), error, None)

    assert admission.estimated_wait_ms() == pytest.approx(20)


def test_at_the_limit_of_open_files_requests_are_judged_without_other_processes(
    tmp_path: Path,
) -> None:
    clock = Clock()
    admission = admission_with(clock, max_wait_ms=1_000, shared_folder=tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as places:
        for _ in range(30):  # 290 ms of waiting, longer than overload allows
            places.enter_context(admission.reserve())
        clock.seconds += 0.5  # BURST_S
        admission.refuse_if_overloaded()
        clock.seconds += 0.75  # COUNT_S: asks whether another process is overloaded

        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            admission.refuse_if_overloaded()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert not admission.overloaded
