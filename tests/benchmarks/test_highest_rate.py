"""The search for the highest rate, with simulated servers."""

import math

import pytest

from benchmarks.highest_rate import bisect, probe_duration_s, within_budget
from tests.benchmarks.test_record import run


@pytest.mark.parametrize("capacity_per_s", [3.0, 41.7, 90.0, 127.9])
def test_the_highest_rate_is_found_within_the_resolution(capacity_per_s: float) -> None:
    found = bisect(lambda rate: rate <= capacity_per_s, ceiling_per_s=140, resolution_per_s=1)

    assert capacity_per_s - 1 <= found.passed_per_s <= capacity_per_s
    assert found.failed_per_s is not None
    assert capacity_per_s < found.failed_per_s <= capacity_per_s + 1


def test_no_rate_is_probed_twice_and_the_number_of_probes_is_the_logarithm() -> None:
    probed: list[float] = []

    def passes(rate_per_s: float) -> bool:
        probed.append(rate_per_s)
        return rate_per_s < 50

    bisect(passes, ceiling_per_s=128, resolution_per_s=1)

    assert len(probed) == len(set(probed)) == math.log2(128)


def test_a_server_that_never_passes_has_the_rate_zero() -> None:
    found = bisect(lambda _: False, ceiling_per_s=100, resolution_per_s=2)

    assert found.passed_per_s == 0
    assert found.failed_per_s is not None
    assert found.failed_per_s <= 2


def test_a_server_that_never_fails_has_no_failed_rate() -> None:
    found = bisect(lambda _: True, ceiling_per_s=100, resolution_per_s=2)

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
    assert probe_duration_s(100, usual_s=10) == 10
    assert probe_duration_s(10, usual_s=10) == 30  # 300 arrivals
    assert probe_duration_s(1, usual_s=10) == 60
