"""The search for the highest rate, with simulated servers."""

import math
from typing import Any

import pytest

from benchmarks.highest_rate import (
    LEAST_REQUESTS,
    Bracket,
    bisect,
    known_from,
    probe_duration_s,
    within_budget,
)
from benchmarks.record import Run
from tests.benchmarks.test_record import run


def nothing_known(ceiling_per_s: float) -> Bracket:
    return Bracket(passed_per_s=0, failed_per_s=None, ceiling_per_s=ceiling_per_s)


def long_run(**changes: Any) -> Run:
    return run(send_skew_ms=(0.0,) * LEAST_REQUESTS, **changes)


@pytest.mark.parametrize("capacity_per_s", [3.0, 41.7, 90.0, 127.9])
def test_the_highest_rate_is_found_within_the_resolution(capacity_per_s: float) -> None:
    found = bisect(
        lambda rate: rate <= capacity_per_s, known=nothing_known(140), resolution_per_s=1
    )

    assert capacity_per_s - 1 <= found.passed_per_s <= capacity_per_s
    assert found.failed_per_s is not None
    assert capacity_per_s < found.failed_per_s <= capacity_per_s + 1


def test_no_rate_is_probed_twice_and_the_number_of_probes_is_the_logarithm() -> None:
    probed: list[float] = []

    def passes(rate_per_s: float) -> bool:
        probed.append(rate_per_s)
        return rate_per_s < 50

    bisect(passes, known=nothing_known(128), resolution_per_s=1)

    assert len(probed) == len(set(probed)) == math.log2(128)


def test_a_server_that_never_passes_has_the_rate_zero() -> None:
    found = bisect(lambda _: False, known=nothing_known(100), resolution_per_s=2)

    assert found.passed_per_s == 0
    assert found.failed_per_s is not None
    assert found.failed_per_s <= 2


def test_a_server_that_never_fails_has_no_failed_rate() -> None:
    found = bisect(lambda _: True, known=nothing_known(100), resolution_per_s=2)

    assert found.passed_per_s >= 98
    assert found.failed_per_s is None


def test_a_rate_passes_only_with_every_answer_right_and_the_p99_in_the_budget() -> None:
    # 200 requests, nearest rank 198: two slow ones do not count, three do.
    fine = (10.0,) * 198

    assert within_budget(run(latencies_ms=(*fine, 900.0, 900.0)), 50)
    assert not within_budget(run(latencies_ms=(*fine[1:], 900.0, 900.0, 900.0)), 50)
    assert not within_budget(run(latencies_ms=fine, wrong=1), 50)
    assert not within_budget(run(latencies_ms=fine, failed={"429": 1}), 50)
    assert not within_budget(run(latencies_ms=()), 50)


def test_slow_rates_are_probed_longer_but_not_endlessly() -> None:
    assert probe_duration_s(100, usual_s=10, longest_s=60) == 10
    assert probe_duration_s(10, usual_s=10, longest_s=60) == 25  # 250 arrivals
    assert probe_duration_s(1, usual_s=10, longest_s=60) == 60


def test_rates_that_were_offered_before_narrow_the_search() -> None:
    known = known_from(
        [
            long_run(offered_rate_per_s=50.0, latencies_ms=(10.0,)),
            long_run(offered_rate_per_s=75.0, latencies_ms=(49.0,)),
            long_run(offered_rate_per_s=90.0, latencies_ms=(51.0,)),
        ],
        budget_ms=50,
        ceiling_per_s=140,
    )
    probed: list[float] = []

    bisect(lambda rate: not probed.append(rate), known=known, resolution_per_s=4)  # type: ignore[func-returns-value]

    # 75 passed, 90 failed: 82.5, then (82.5 + 90) / 2, and 3.75 is narrow enough.
    assert probed == [82.5, 86.25]


def test_a_rate_that_passes_above_one_that_failed_is_luck() -> None:
    known = known_from(
        [
            long_run(offered_rate_per_s=50.0, latencies_ms=(80.0,)),
            long_run(offered_rate_per_s=75.0, latencies_ms=(10.0,)),
        ],
        budget_ms=50,
        ceiling_per_s=140,
    )

    assert (known.passed_per_s, known.failed_per_s) == (0, 50)


def test_a_run_of_few_requests_says_nothing() -> None:
    few = run(offered_rate_per_s=5.0, send_skew_ms=(0.0,) * (LEAST_REQUESTS - 1))

    assert known_from([few], budget_ms=50, ceiling_per_s=9) == nothing_known(9)


def test_the_search_ends_after_the_probes_it_is_given() -> None:
    probed: list[float] = []

    found = bisect(
        lambda rate: not probed.append(rate),  # type: ignore[func-returns-value]
        known=nothing_known(160),
        resolution_per_s=1,
        most_probes=3,
    )

    assert probed == [80, 120, 140]
    assert found.passed_per_s == 140
