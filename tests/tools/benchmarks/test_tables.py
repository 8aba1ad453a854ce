"""The report's tables: what is compared with what."""

import pytest

from benchmarks.highest_rate import LEAST_REQUESTS
from benchmarks.record import HighestRate, Limit, Run
from benchmarks.summary import row_of
from benchmarks.tables import limits_table, number, rates_table, ratios, servers_table
from tests.benchmarks.test_record import run, session

CASE = ("none", "digits")


def limit(**changed: object) -> Limit:
    """Two calls of 4 and 6 ms in a second."""
    given = {
        "model": "none",
        "images": "digits",
        "engine": "f32",
        "work": "images",
        "preprocessing": "project",
        "batch_size": 1,
        "streams": 1,
        "threads": 2,
        "callers": 1,
        "elapsed_s": 1.0,
        "images_done": 2,
        "latencies_ms": (4.0, 6.0),
    }
    return Limit.model_validate({**given, **changed})


def one_answer(server: str, elapsed_s: float) -> Run:
    """A closed run: one right answer in this time."""
    return run(
        mode="closed",
        server=server,
        offered_rate_per_s=None,
        connections=1,
        latencies_ms=(1.0,),
        elapsed_s=elapsed_s,
    )


def test_the_added_latency_is_that_over_the_limit_at_the_same_rate() -> None:
    # 7 ms answered; alone 4 ms back to back, 6 ms at 5/s: HTTP adds 1 ms.
    measured = session(run(server="this project", offered_rate_per_s=5.0, latencies_ms=(7.0,)))
    limits = (limit(latencies_ms=(4.0,)), limit(rate_per_s=5.0, latencies_ms=(6.0,)))

    row = row_of(measured.model_copy(update={"limits": limits}), CASE, "this project")

    assert number(row.added_ms) == "1.0"


def test_the_limit_of_the_throughput_is_one_without_pauses() -> None:
    # 1 answer in 1 s, over 2 images/s without pauses; with pauses they would be 100.
    closed = one_answer("this project", 1.0)
    limits = (limit(), limit(rate_per_s=5.0, images_done=100))

    row = row_of(session(closed).model_copy(update={"limits": limits}), CASE, "this project")

    assert number(row.part_of_limit, 2) == "0.50"
    assert "| at 5 |" in limits_table(session(closed).model_copy(update={"limits": limits}), CASE)


def test_a_rate_has_the_percentiles_and_the_share_that_came_late() -> None:
    # 4 sent: 10, 20 and 60 ms, and one that failed: 2 of 4 not within 50 ms.
    late = run(
        server="one", offered_rate_per_s=20.0, latencies_ms=(10.0, 20.0, 60.0), failed={"429": 1}
    )
    never = run(server="two", offered_rate_per_s=20.0, latencies_ms=(1.0,))

    text = rates_table(session(late, never), CASE, 50)

    assert "| one | 20.0 / 60.0, 50.0% |" in text
    assert "| two | 1.0 / 1.0, 0.0% |" in text


@pytest.mark.parametrize(("servers", "shown"), [(("a", "b"), True), (("a", "b", "c"), False)])
def test_a_rate_that_few_servers_were_offered_is_left_out(
    servers: tuple[str, ...], shown: bool
) -> None:
    runs = [run(server=name, offered_rate_per_s=5.0) for name in servers]
    runs.append(run(server="a", offered_rate_per_s=7.5))

    assert ("7.5/s" in rates_table(session(*runs), CASE, 50)) is shown


def test_this_project_is_not_a_peer_of_itself() -> None:
    # Closed runs: 1 answer in 1, 1 and 2 s.
    runs = [
        one_answer(server, elapsed_s)
        for server, elapsed_s in (
            ("this project", 1.0),
            ("this project, form upload", 1.0),
            ("peer", 2.0),
        )
    ]
    measured = session(*runs)
    rows = [row_of(measured, CASE, one.server) for one in runs]

    assert ratios(rows) == "this project: throughput 2.00 × the best peer's (peer)."


def test_the_throughput_is_compared_with_the_limit_measured_just_before() -> None:
    # 1 answer a second; the limit was 2 images/s at first, 4 just before, 8 before another.
    closed = one_answer("this project", 1.0)
    limits = (
        limit(),
        limit(images_done=4, server="this project"),
        limit(images_done=8, server="another"),
    )
    measured = session(closed).model_copy(update={"limits": limits})

    assert number(row_of(measured, CASE, "this project").part_of_limit, 2) == "0.25"
    assert "| 2.0 |" in limits_table(measured, CASE)


def test_refusals_and_failures_stand_beside_the_saturated_throughput() -> None:
    # Two rounds of 2 answers each: 1 of 8 refused, 3 of 8 failed.
    refuses = closed_rounds("this project", {"429": 1, "500": 1}, {"500": 2})
    answers = closed_rounds("peer", {}, {})
    measured = session(*refuses, *answers)
    rows = [row_of(measured, CASE, name) for name in ("this project", "peer")]

    text = servers_table(rows, 50)

    assert "| this project | 2.0 | 12.5% 429, 37.5% 500 |" in text
    assert "| peer | 2.0 | 0 |" in text


def closed_rounds(server: str, *failed: dict[str, int]) -> list[Run]:
    """Two right answers in a second each."""
    return [
        run(
            mode="closed",
            server=server,
            offered_rate_per_s=None,
            connections=1,
            round=index,
            latencies_ms=(1.0, 1.0),
            elapsed_s=1.0,
            failed=reasons,
        )
        for index, reasons in enumerate(failed)
    ]


def searched(server: str, passed_per_s: float, failed_per_s: float | None) -> HighestRate:
    return HighestRate(
        server=server,
        model=CASE[0],
        images=CASE[1],
        round=0,
        rate_per_s=passed_per_s,
        first_failed_rate_per_s=failed_per_s,
        budget_ms=50,
        rule="",
    )


def compared(*searches: HighestRate) -> str:
    runs = [run(server=name) for name in dict.fromkeys(it.server for it in searches)]
    measured = session(*runs).model_copy(update={"highest_rates": searches})
    return ratios([row_of(measured, CASE, one.server) for one in runs])


# What the brackets prove: the least is passed ÷ failed, the most is failed ÷ passed.
@pytest.mark.parametrize(
    ("own", "peer", "sentence"),
    [
        ((100, 110), (20, 25), "highest rate 4.00 to 5.50 × the best peer's (peer)"),
        ((25, 30), (20, 25), "highest rate 1.00 to 1.50 × the best peer's (peer)"),
        ((24, 30), (20, 25), "highest rate not told apart from the best peer's (peer)"),
        ((10, 12), (20, 25), "highest rate 0.40 to 0.60 × the best peer's (peer)"),
        ((100, 110), (0, 25), "highest rate at least 4.00 × the best peer's (peer)"),
        ((100, None), (20, 25), "highest rate at least 4.00 × the best peer's (peer)"),
        ((100, 110), (90, None), "highest rate not told apart from the best peer's (peer)"),
    ],
)
def test_highest_rates_are_compared_by_what_passed_and_what_failed(
    own: tuple[float, float | None], peer: tuple[float, float | None], sentence: str
) -> None:
    text = compared(searched("this project", *own), searched("peer", *peer))

    assert text == f"this project: {sentence}."


def test_a_ratio_from_few_arrivals_says_how_few() -> None:
    offered = [("this project", 50, 400), ("this project", 60, 350), ("peer", 20, 120)]
    runs = [
        run(
            server=server,
            mode="open",
            connections=None,
            offered_rate_per_s=float(rate_per_s),
            send_skew_ms=(0.0,) * arrivals,
        )
        for server, rate_per_s, arrivals in offered
    ]
    searches = (searched("this project", 50, 60), searched("peer", 20, 25))
    measured = session(*runs).model_copy(update={"highest_rates": searches})

    text = ratios([row_of(measured, CASE, server) for server in ("this project", "peer")])

    assert text == (
        "this project: highest rate 2.00 to 3.00 × the best peer's (peer, from 120 arrivals)."
    )


def test_the_best_peer_is_the_one_that_may_hold_most_in_any_round() -> None:
    # One peer passed 20 and failed at 60, the other passed 30 and failed at 40. Of this project's
    # two rounds the worse one counts.
    text = compared(
        searched("this project", 90, 100),
        searched("this project", 120, 130),
        searched("wide", 20, 60),
        searched("narrow", 30, 40),
    )

    assert text == "this project: highest rate 1.50 to 6.50 × the best peer's (wide)."


def test_a_highest_rate_stands_beside_the_rate_that_failed_and_the_number_of_few_arrivals() -> None:
    runs = [
        open_of(LEAST_REQUESTS, 100.0),
        open_of(LEAST_REQUESTS, 106.0),
        open_of(LEAST_REQUESTS, 3.5),
        # Given up after 12 of the 42 that were expected.
        open_of(12, 4.2, duration_s=10.0, given_up=True),
    ]
    searches = (searched("tiny", 100.0, 106.0), searched("tiny", 3.5, 4.2))
    measured = session(*runs).model_copy(update={"highest_rates": searches})

    text = servers_table([row_of(measured, CASE, "tiny")], 50)

    assert "| 100 (failed at 106); 3.5 (failed at 4.2; 42 arrivals) |" in text


def open_of(requests: int, rate_per_s: float, **changes: float) -> Run:
    return run(offered_rate_per_s=rate_per_s, send_skew_ms=(0.0,) * requests, **changes)


def test_a_run_that_was_given_up_is_in_no_table_of_latencies() -> None:
    whole = run(server="one", offered_rate_per_s=20.0, latencies_ms=(10.0,))
    part = run(server="one", offered_rate_per_s=20.0, latencies_ms=(900.0,), given_up=True)

    assert "| one | 10.0 / 10.0, 0.0% |" in rates_table(session(whole, part), CASE, 50)
