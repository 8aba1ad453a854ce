"""The report keeps what people wrote and replaces what was generated."""

import pytest

from benchmarks.record import HighestRate
from benchmarks.summary import budget_of, row_of
from benchmarks.tables import number, table
from tests.benchmarks.test_record import run, session

pytest.importorskip("matplotlib")

from benchmarks.report import BEGIN, END, ReportError, between_markers


def test_only_the_part_between_the_markers_is_replaced() -> None:
    text = f"# Title\n{BEGIN}\nold\n{END}\nwritten by hand\n"

    assert between_markers(text, "new") == f"# Title\n{BEGIN}\nnew\n{END}\nwritten by hand\n"


def test_a_lost_marker_is_an_error() -> None:
    with pytest.raises(ReportError, match="marker"):
        between_markers("# Title\n", "new")


def test_a_row_has_the_median_of_the_rounds_with_the_extremes() -> None:
    # Closed runs of 3 rounds: 4 right answers in 1, 2 and 4 s are 4, 2 and 1 per second.
    rounds = [
        run(
            mode="closed",
            offered_rate_per_s=None,
            connections=1,
            round=index,
            latencies_ms=(1.0, 1.0, 1.0, 1.0),
            elapsed_s=elapsed_s,
            failed={"429": 1},
        )
        for index, elapsed_s in enumerate((1.0, 2.0, 4.0))
    ]

    row = row_of(session(*rounds), ("none", "digits"), "tiny")

    assert number(row.saturated_per_s) == "2.0 (1.0–4.0)"
    assert row.failed == 3
    assert row.part_of_limit is None


def test_a_case_is_judged_by_the_budget_of_its_searches() -> None:
    searched = HighestRate(
        server="tiny",
        model="none",
        images="digits",
        round=0,
        rate_per_s=1,
        first_failed_rate_per_s=None,
        budget_ms=200,
        rule="",
    )
    measured = session().model_copy(update={"highest_rates": (searched,)})

    assert budget_of(measured, ("none", "digits")) == 200
    assert budget_of(measured, ("none", "other")) == 50


def test_a_table_has_its_numbers_to_the_right() -> None:
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_latencies_are_compared_at_the_lowest_rate_that_all_were_offered() -> None:
    # The search took one server down to 2/s; the other was never asked so little.
    runs = [
        run(server="one", offered_rate_per_s=2.0, latencies_ms=(1.0,)),
        run(server="one", offered_rate_per_s=5.0, latencies_ms=(7.0,)),
        run(server="two", offered_rate_per_s=5.0, latencies_ms=(8.0,)),
        run(server="two", offered_rate_per_s=50.0, latencies_ms=(9.0,)),
    ]

    rows = [row_of(session(*runs), ("none", "digits"), name) for name in ("one", "two")]

    assert [number(row.p50_low_ms) for row in rows] == ["7.0", "8.0"]
