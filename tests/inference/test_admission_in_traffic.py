"""Admission under bursts, overload, impatient clients and pauses, in simulation."""

import os
from pathlib import Path

import pytest

from image_classifier.inference.admission import Admission
from image_classifier.settings import Settings
from tests.inference.simulated_service import Clock, Service, poisson

BUDGET_S = 0.05


def admission(
    clock: Clock, answer_interval_ms: float = 25, shared_folder: Path | None = None
) -> Admission:
    return Admission(
        max_in_flight=512,
        max_wait_ms=2_000,
        overload_wait_range_ms=Settings.from_env({}).overload_wait_range_ms,
        answer_interval_ms=answer_interval_ms,
        parallel=2,
        shared_folder=shared_folder,
        clock=clock,
    )


def slow_network(shared_folder: Path | None = None) -> Service:
    """Return a service of 40 answers per second."""
    return Service(
        lambda clock: admission(clock, shared_folder=shared_folder), servers=2, service_s=0.05
    )


def fast_network() -> Service:
    """Return a service of 500 answers per second."""
    return Service(lambda clock: admission(clock, answer_interval_ms=2), servers=2, service_s=0.004)


def test_a_burst_on_an_idle_service_is_answered() -> None:
    assert slow_network().run([1.0] * 24).answered_share == 1
    assert fast_network().run([1.0] * 64).answered_share == 1


def test_below_the_capacity_nearly_all_requests_are_answered_even_with_bursts() -> None:
    assert slow_network().run(poisson(0.8 * 40, 50)).answered_share >= 0.98
    # Together 0.92 of the capacity, so that a burst takes some seconds.
    bursts = [5 * (number + 0.5) for number in range(18) for _ in range(24)]
    assert slow_network().run(poisson(0.8 * 40, 90) + bursts).answered_share >= 0.95


@pytest.mark.parametrize(
    ("service", "wait_s"),
    # Overload limits the wait to two answers, between half the budget and the budget.
    [(slow_network(), BUDGET_S), (fast_network(), BUDGET_S / 2)],
    ids=["slow", "fast"],
)
def test_at_three_times_the_capacity_the_service_is_busy_and_waits_are_short(
    service: Service, wait_s: float
) -> None:
    # Overload is noticed within 2 s.
    settled = service.run(poisson(3 * service.capacity_per_s, 8)).between(2, 8)

    assert settled.goodput(0.11, 6) >= 0.9
    assert settled.percentile_s(99) <= wait_s + 1.1 * service.service_s + 0.002


def test_after_an_overload_a_burst_is_answered_again() -> None:
    arrivals = poisson(3 * 40, 4) + poisson(40 / 2, 7, begin=4)
    result = slow_network().run([*arrivals, *[9.0] * 24])

    assert result.between(6, 30).answered_share >= 0.99
    assert result.between(9, 9.0001).answered_share == 1


def test_overload_ends_even_if_the_import_measured_slower_images() -> None:
    # 100 ms an answer, as of camera photos; the traffic takes 25.
    service = Service(lambda clock: admission(clock, 100), servers=2, service_s=0.05)
    half = [poisson(40 / 2, 8, seed=1), poisson(40 / 2, 30, begin=16, seed=2)]

    result = service.run([*half[0], *poisson(3 * 40, 8, begin=8), *half[1]])

    assert result.between(0, 8).answered_share == 1
    assert result.between(20, 50).answered_share == 1
    assert max(request.retry_after_s or 0 for request in result.requests) <= 6


def test_a_slight_overload_does_not_end_by_chance() -> None:
    loads = [poisson(1.05 * 40, 60, seed=seed) for seed in range(4)]

    goodput = [slow_network().run(load).goodput(0.105, 60) for load in loads]

    # If it ended as soon as fewer requests arrive than can be answered, this would be 0.5.
    assert sum(goodput) / len(goodput) >= 0.6


def test_a_slowly_growing_queue_is_an_overload() -> None:
    result = fast_network().run(poisson(1.05 * 500, 15))

    # If the queue grew on, nearly all answers would be late.
    assert result.goodput(0.11, 15) >= 0.5


@pytest.mark.parametrize("clients", [6, 60])
def test_all_requests_of_clients_who_wait_for_their_answers_are_answered(clients: int) -> None:
    assert slow_network().run_clients(clients, 20).answered_share == 1


@pytest.mark.parametrize("factor", [0.3, 3])
def test_the_estimate_follows_a_service_that_is_slower_or_faster_than_measured(
    factor: float,
) -> None:
    service = Service(
        lambda clock: admission(clock, answer_interval_ms=10), servers=2, service_s=0.02 * factor
    )
    settled = service.run(poisson(3 * service.capacity_per_s, 8)).between(4, 8)

    assert settled.percentile_s(99) <= BUDGET_S + 1.1 * service.service_s + 0.001
    assert settled.goodput(1, 4) >= 0.9


@pytest.mark.parametrize("pause_s", [0.2, 10])
def test_after_a_pause_of_the_machine_all_requests_are_answered_again(pause_s: float) -> None:
    service = Service(admission, servers=2, service_s=0.05, pause=(5.005, pause_s))
    result = service.run([number / 32 for number in range(32 * 30)])

    after = 5 + pause_s + 4
    assert result.between(after, after + 10).answered_share == 1


def test_gaps_between_answers_do_not_count_while_nothing_waits() -> None:
    service = slow_network()
    service.run([number / 4 for number in range(80)])

    # Answers come 250 ms apart because requests do.
    service.admission.in_flight = 2
    assert service.admission.estimated_wait_ms() == pytest.approx(25, rel=0.01)


def test_requests_that_have_waited_too_long_when_overload_begins_are_dropped() -> None:
    requests = slow_network().run(poisson(120, 2)).requests

    dropped = [each for each in requests if each.refused and each.refused > each.arrived]
    assert len(dropped) > 20
    assert not [each for each in dropped if each.begun]
    # Once overload is noticed, no work begins on a request that has waited beyond the budget.
    noticed = min(each.refused or 0 for each in dropped)
    waits = [each.begun - each.arrived for each in requests if each.begun and each.begun > noticed]
    assert max(waits) <= BUDGET_S


@pytest.mark.parametrize("announced_at_s", [60, -60])
def test_overload_of_another_process_begins_and_prolongs_that_of_this_process(
    tmp_path: Path, announced_at_s: float
) -> None:
    flag = tmp_path / "overloaded.1"
    flag.touch()
    os.utime(flag, (announced_at_s, announced_at_s))  # the simulation begins at 0
    service = slow_network(tmp_path)

    standing_queue_answered = service.run_clients(60, 20).answered_share == 1
    service.run([*poisson(120, 4), *poisson(10, 6, begin=4)])

    is_overloaded_elsewhere = announced_at_s > 0
    assert standing_queue_answered != is_overloaded_elsewhere
    assert service.admission.overloaded == is_overloaded_elsewhere


def test_overload_is_announced_to_other_processes_until_it_ends(tmp_path: Path) -> None:
    service = slow_network(tmp_path)
    service.run([*poisson(120, 10), *poisson(10, 10, begin=10)])

    (flag,) = tmp_path.iterdir()
    assert flag.stat().st_mtime == pytest.approx(10, abs=2)
    assert not service.admission.overloaded
