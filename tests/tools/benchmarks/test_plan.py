"""The estimate of a session's time, by hand, and how sessions are fitted to a time."""

import dataclasses

import pytest

from benchmarks.catalogue import NULL, PEERS, PRODUCT_SERVER
from benchmarks.highest_rate import FLOOR_PART
from benchmarks.plan import Case, Plan, PlanError
from benchmarks.presets import FULL, MINUTES, PRESETS, QUICK, fitted, only

SMALL = Plan(
    name="small",
    cases=(
        Case(
            architecture="a",
            precision="fp32",
            rates_per_s=(5, 50),
            servers=(NULL, PRODUCT_SERVER),
        ),
    ),
    slice_s=10,
    rounds=2,
    warmup_s=3,
    most_probes=4,
)


def test_the_estimate_adds_starts_warmups_runs_probes_and_limits() -> None:
    # Limits: 2 rounds × 5 + 6 forward = 16, each 2 s to start and 10 s long: 192 s.
    # Null server, once: 5 + 3 + 1 closed and 2 open runs of 10 s = 38 s; it is not searched.
    # This project: 2 × (2 + two starts of 5 + 3 + a limit and 3 runs of 10 s) = 116 s, and in the
    # last round one search: 4 probes of 1 to 3 slices, 2 at a mean, are 80 s.
    assert SMALL.duration_s() == 192 + 38 + 116 + 80


def test_a_case_may_have_a_budget_of_its_own() -> None:
    (case,) = SMALL.cases

    assert SMALL.of_case(case).budget_ms == 50
    assert SMALL.of_case(dataclasses.replace(case, budget_ms=200)).budget_ms == 200


def test_a_case_of_high_rates_needs_no_long_probes() -> None:
    (case,) = SMALL.cases
    quick = dataclasses.replace(SMALL, cases=(dataclasses.replace(case, longest_probe=1),))

    # 4 probes of one slice of 10 s instead of two.
    assert SMALL.duration_s() - quick.duration_s() == 40
    assert quick.of_case(quick.cases[0]).probe_duration_s(1) == 10
    assert SMALL.of_case(case).probe_duration_s(1) == 30


def test_the_probes_of_a_session_are_enough_for_its_resolution() -> None:
    for plan in (FULL, PRESETS["relaxed"], PRESETS["models"]):
        assert FLOOR_PART ** (-1 / 2**plan.most_probes) <= plan.resolution


def test_slices_fill_the_time() -> None:
    plan = SMALL.with_slices_for(300)

    assert 290 < plan.duration_s() <= 300


def test_a_time_that_is_too_short_says_how_long_it_must_be() -> None:
    # 16 × 2 + 5 × (5 + 3) + 2 × 2 = 76 s of starts, and 16 + 3 + 8 + 8 = 35 slices of at least 5 s:
    # 4.18 min.
    with pytest.raises(PlanError, match=r"small: 2\.0 minutes .* give 4\.2 minutes"):
        SMALL.with_slices_for(120)


@pytest.mark.parametrize("name", PRESETS)
def test_every_session_fits_the_time_it_is_given(name: str) -> None:
    plan = fitted(PRESETS[name], MINUTES[name])

    assert plan.duration_s() <= 60 * MINUTES[name]


def test_a_quick_session_takes_less_than_five_minutes_and_a_full_one_half_an_hour() -> None:
    assert MINUTES["quick"] < 5
    assert MINUTES["full"] <= 30
    assert [server.name for server in QUICK.cases[0].servers] == [
        "this project",
        "FastAPI",
        "Mosec",
        "LitServe",
        "BentoML, depends",
    ]


def test_every_peer_is_in_the_full_session_in_two_rounds_at_least() -> None:
    plan = fitted(FULL, MINUTES["full"])

    assert all(peer in plan.cases[0].servers for peer in PEERS)
    assert plan.rounds >= 2


def test_more_time_makes_more_rounds_before_it_makes_longer_ones() -> None:
    few = only(FULL, ["this project", "FastAPI"], [])

    assert fitted(few, 5).rounds == 1
    assert fitted(few, 25).rounds == 3


def test_only_the_named_servers_and_models_are_kept() -> None:
    plan = only(PRESETS["models"], ["this project"], ["digits-fp32"])

    assert [case.model for case in plan.cases] == ["digits-fp32"]
    assert [server.name for server in plan.cases[0].servers] == ["this project"]
    with pytest.raises(PlanError, match="unknown Nobody; the plan has"):
        only(FULL, ["Nobody"], [])
