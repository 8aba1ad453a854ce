"""The tables say what the samples say, worked out by hand."""

from tests.tools.benchmarks.samples import case_result, limit, session, visit
from tests.tools.runs import run
from tools.benchmarks import report
from tools.benchmarks.report import (
    HEADER,
    as_text,
    bracket,
    check_page,
    generated_part,
    server_row,
)
from tools.benchmarks.session import CaseResult, stored_sessions
from tools.load import HighestRate, Run


def closed(answers: int, **changes: object) -> Run:
    """So many right answers in a second."""
    given = {"rate_per_s": None, "connections": 6, "latencies_ms": (9.0,) * answers}
    return run(**{**given, "sent": answers, **changes})


def at_5_per_s(*latencies_ms: float, **changes: object) -> Run:
    given = {"rate_per_s": 5.0, "latencies_ms": latencies_ms, "sent": len(latencies_ms)}
    return run(**{**given, **changes})


def cells(result: CaseResult, server: str) -> dict[str, str]:
    return dict(zip(HEADER, server_row(result, server), strict=True))


def test_a_row_has_medians_over_rounds_with_the_extremes() -> None:
    rounds = [
        visit("peer", closed(answers), round=index, ready_s=ready_s, memory_mb=100.0)
        for index, (answers, ready_s) in enumerate([(10, 2.0), (40, 1.0), (20, 4.0)])
    ]

    row = cells(case_result(*rounds), "peer")

    assert row["saturated /s"] == "20.0 (10.0–40.0)"
    assert row["start s"] == "2.0 (1.0–4.0)"
    assert row["memory MB"] == "100"


def test_throughput_is_divided_by_the_limit_of_the_same_visit() -> None:
    # 1 of 2/s and 6 of 8/s: a half and three quarters, each within its round.
    rounds = [
        visit("peer", closed(1), limit=limit(), round=0),
        visit("peer", closed(6), limit=limit(latencies_ms=(1.0,) * 8), round=1),
    ]

    assert cells(case_result(*rounds), "peer")["÷ limit"] == "0.62 (0.50–0.75)"


def test_the_added_latency_is_that_over_one_caller_at_the_same_rate_and_round() -> None:
    # 9 ms of 4 ms and 9 ms of 7 ms; back to back the calls take 1 ms.
    limits = (
        limit(rate_per_s=5.0, latencies_ms=(4.0,), round=0),
        limit(rate_per_s=5.0, latencies_ms=(7.0,), round=1),
        limit(latencies_ms=(1.0,), round=0),
    )
    rounds = [visit("peer", closed(1), at_5_per_s(9.0), round=index) for index in (0, 1)]

    row = cells(case_result(*rounds, limits=limits), "peer")

    assert row["added ms"] == "3.5 (2.0–5.0)"
    assert row["p50 / p99 ms"] == "9.0 / 9.0"


def test_failures_and_wrong_answers_of_all_whole_runs_are_in_the_row() -> None:
    runs = (
        closed(3, failed={"429": 2}),
        at_5_per_s(1.0, wrong=1, failed={"lost": 1}),
        run(given_up=True, failed={"500": 9}),
    )

    row = cells(case_result(visit("peer", *runs)), "peer")

    assert (row["failed"], row["wrong"]) == ("3", "1")


def test_a_server_that_failed_is_a_row_with_its_reason() -> None:
    result = case_result(visit("peer", error="peer: ended with 1 while starting"))

    row = server_row(result, "peer")

    assert row[:2] == ["peer", "not measured: peer: ended with 1 while starting"]
    assert len(row) == len(HEADER)


def test_a_highest_rate_stands_beside_the_rate_that_failed() -> None:
    found = HighestRate(passed_per_s=100, failed_per_s=106, arrivals=350)
    few = HighestRate(passed_per_s=0, failed_per_s=4.2, arrivals=42)
    endless = HighestRate(passed_per_s=90, failed_per_s=None, arrivals=400)

    assert bracket(found) == "100 (failed at 106)"
    assert bracket(few) == "0 (failed at 4.2, 42 arrivals)"
    assert bracket(endless) == "90 (none failed)"


def test_the_null_server_is_no_row_but_the_cost_of_the_generator() -> None:
    null = visit("null server", closed(50, client_cpu_s=0.005), at_5_per_s(0.5, skew_p99_ms=0.25))

    result = case_result(null, visit("peer", closed(1)))
    text = generated_part([session(result)])

    assert "| null server |" not in text
    # 0.005 s for 50 requests are 100 µs each.
    assert "costs 100 µs of processor time a request" in text
    assert "0.25 ms late" in text


def test_an_overload_shows_the_share_that_was_refused() -> None:
    overload = run(rate_per_s=30.0, sent=40, latencies_ms=(1.0,) * 10, failed={"429": 30})
    found = session(
        case_result(visit("this project", overload, settings={"CLASSIFIER_WORKERS": "2"}))
    )

    text = as_text(found.model_copy(update={"name": "load-none"}))

    assert "| none | 30/s, 1 s | 10.0 | 1.0 / 1.0 | 75.0% 429 | 0 | CLASSIFIER_WORKERS=2 |" in text


def test_the_page_takes_each_case_from_its_newest_session() -> None:
    old, new = (case_result(visit("peer", closed(answers))) for answers in (10, 20))
    other = case_result(visit("peer", closed(30))).model_copy(update={"model": "another"})

    text = generated_part([session(new), session(old, other)])

    assert "| peer | 20.0 |" in text
    assert "| peer | 30.0 |" in text
    assert "| peer | 10.0 |" not in text


def test_the_published_page_says_what_the_stored_sessions_say() -> None:
    assert "says what the sessions say" in check_page()

    for picture in report.PICTURES.iterdir():
        assert f"performance/{picture.name}" in report.PAGE.read_text()
    for found in stored_sessions():
        assert found.file_name in report.PAGE.read_text()
