"""The search for the highest rate, with simulated servers."""

from typing import Any

import pytest

from benchmarks.highest_rate import (
    LEAST_REQUESTS,
    Bracket,
    allowed_late,
    bisect,
    known_from,
    probe_duration_s,
    within_budget,
)
from benchmarks.record import Run
from tests.benchmarks.test_record import run


def nothing_known(saturated_per_s: float) -> Bracket:
    return known_from([], budget_ms=50, saturated_per_s=saturated_per_s)


def long_run(**changes: Any) -> Run:
    return run(send_skew_ms=(0.0,) * LEAST_REQUESTS, **changes)


# Between 0.1 and 1 of the saturated 140/s, in four probes: 10^(1/16) = 1.155 whatever the rate.
@pytest.mark.parametrize("capacity_per_s", [14.5, 20.0, 41.7, 90.0, 127.9])
def test_the_highest_rate_is_found_to_the_same_part_of_itself(capacity_per_s: float) -> None:
    found = bisect(
        lambda rate: rate <= capacity_per_s,
        known=nothing_known(140),
        resolution=1.16,
        most_probes=4,
    )

    assert found.lower_per_s <= capacity_per_s < found.upper_per_s
    assert found.upper_per_s / found.lower_per_s == pytest.approx(1.155, abs=0.005)


def test_rates_are_tried_halfway_on_a_logarithmic_scale_each_once() -> None:
    probed: list[float] = []

    def passes(rate_per_s: float) -> bool:
        probed.append(rate_per_s)
        return rate_per_s < 30

    found = bisect(passes, known=nothing_known(160), resolution=1.2, most_probes=9)

    # sqrt(16 × 160) = 50.6 fails, sqrt(16 × 50.6) = 28.45 passes, sqrt(28.45 × 50.6) = 37.94 and
    # sqrt(28.45 × 37.94) = 32.86 fail; 32.86 ÷ 28.45 = 1.155 is near enough.
    assert probed == [50.6, 28.45, 37.94, 32.85]
    assert (found.passed_per_s, found.failed_per_s) == (28.45, 32.85)


def test_a_server_that_never_passes_has_the_rate_zero() -> None:
    found = bisect(lambda _: False, known=nothing_known(100), resolution=1.2, most_probes=9)

    assert found.passed_per_s == 0
    assert found.failed_per_s is not None
    assert 10 < found.failed_per_s <= 12  # nothing below a tenth of 100/s is tried


def test_a_server_that_never_fails_has_no_failed_rate() -> None:
    found = bisect(lambda _: True, known=nothing_known(100), resolution=1.2, most_probes=9)

    assert 83 < found.passed_per_s < 100
    assert found.failed_per_s is None


def test_a_rate_passes_only_with_every_answer_right_and_the_p99_in_the_budget() -> None:
    # 200 requests, nearest rank 198: two slow ones do not count, three do.
    fine = (10.0,) * 198

    assert within_budget(run(latencies_ms=(*fine, 900.0, 900.0)), 50)
    assert not within_budget(run(latencies_ms=(*fine[1:], 900.0, 900.0, 900.0)), 50)
    assert not within_budget(run(latencies_ms=fine, wrong=1), 50)
    assert not within_budget(run(latencies_ms=fine, failed={"429": 1}), 50)
    assert not within_budget(run(latencies_ms=()), 50)
    assert not within_budget(run(latencies_ms=fine, given_up=True), 50)


# The nearest rank of 99 % is 99 of 100, 297 of 300 and 298 of 301.
@pytest.mark.parametrize(("requests", "late"), [(1, 0), (99, 0), (100, 1), (300, 3), (301, 3)])
def test_as_many_may_be_late_as_lie_beyond_the_p99(requests: int, late: int) -> None:
    assert allowed_late(requests) == late
    just = (10.0,) * (requests - late) + (900.0,) * late
    assert within_budget(run(latencies_ms=just), 50)
    assert not within_budget(run(latencies_ms=(*just[1:], 900.0)), 50)


def test_slow_rates_are_probed_longer_but_not_endlessly() -> None:
    assert probe_duration_s(100, usual_s=10, longest_s=60) == 10
    assert probe_duration_s(10, usual_s=10, longest_s=60) == 35  # 350 arrivals
    assert probe_duration_s(1, usual_s=10, longest_s=60) == 60


def test_rates_that_were_offered_before_narrow_the_search() -> None:
    known = known_from(
        [
            long_run(offered_rate_per_s=50.0, latencies_ms=(10.0,)),
            long_run(offered_rate_per_s=75.0, latencies_ms=(49.0,)),
            long_run(offered_rate_per_s=90.0, latencies_ms=(51.0,)),
        ],
        budget_ms=50,
        saturated_per_s=140,
    )

    assert (known.lower_per_s, known.upper_per_s) == (75, 90)


def test_a_rate_that_passes_above_one_that_failed_is_luck() -> None:
    known = known_from(
        [
            long_run(offered_rate_per_s=50.0, latencies_ms=(80.0,)),
            long_run(offered_rate_per_s=75.0, latencies_ms=(10.0,)),
        ],
        budget_ms=50,
        saturated_per_s=140,
    )

    assert (known.passed_per_s, known.failed_per_s) == (0, 50)


def test_a_run_of_few_requests_says_nothing() -> None:
    few = run(offered_rate_per_s=5.0, send_skew_ms=(0.0,) * (LEAST_REQUESTS - 1))

    assert known_from([few], budget_ms=50, saturated_per_s=9) == nothing_known(9)


def test_the_search_ends_after_the_probes_it_is_given() -> None:
    probed: list[float] = []

    found = bisect(
        lambda rate: not probed.append(rate),  # type: ignore[func-returns-value]
        known=nothing_known(160),
        resolution=1.0,
        most_probes=2,
    )

    # sqrt(16 × 160), then the root of that × 160.
    assert probed == [50.6, 89.98]
    assert found.passed_per_s == 89.98
