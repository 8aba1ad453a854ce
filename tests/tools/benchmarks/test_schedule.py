"""Arrivals are a Poisson process, the same every time."""

import itertools

import pytest

from benchmarks.schedule import poisson_schedule


def test_the_same_arguments_give_the_same_schedule() -> None:
    first = poisson_schedule(50, 10, images=7, seed=3)

    assert first == poisson_schedule(50, 10, images=7, seed=3)
    assert first != poisson_schedule(50, 10, images=7, seed=4)


def test_the_number_of_arrivals_and_their_gaps_are_those_of_a_poisson_process() -> None:
    arrivals = poisson_schedule(200, 100, images=1, seed=1).arrivals_s

    # 20,000 expected, standard deviation sqrt(20,000) = 141; 4 of them are 566.
    assert len(arrivals) == pytest.approx(20_000, abs=566)
    gaps = [after - before for before, after in itertools.pairwise(arrivals)]
    # Exponential gaps: a part of exp(-1) = 0.3679 is longer than the mean of 1/200 s. An even
    # spacing would have none or all. The tolerance is 4 standard deviations of a share of 20,000.
    longer = sum(gap > 1 / 200 for gap in gaps) / len(gaps)
    assert longer == pytest.approx(0.3679, abs=0.014)


def test_arrivals_ascend_within_the_duration_and_use_every_image() -> None:
    schedule = poisson_schedule(100, 5, images=4, seed=2)

    assert list(schedule.arrivals_s) == sorted(schedule.arrivals_s)
    assert schedule.arrivals_s[0] >= 0
    assert schedule.arrivals_s[-1] < 5
    assert set(schedule.image_indices) == {0, 1, 2, 3}
    assert len(schedule.image_indices) == len(schedule.arrivals_s)
