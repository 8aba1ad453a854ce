"""The report's tables: what is compared with what."""

import pytest

from benchmarks.record import Limit, Run
from benchmarks.summary import row_of
from benchmarks.tables import limits_table, number, rates_table, ratios
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
