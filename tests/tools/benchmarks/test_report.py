"""The tables match the samples; expected values are calculated by hand."""

from tests.tools.benchmarks.samples import case_result, limit, session, visit
from tests.tools.runs import run
from tools.benchmarks import report
from tools.benchmarks.report import HEADER, as_text, generated_part, page_with, server_row
from tools.benchmarks.session import stored_sessions
from tools.load import HighestRate, Run


def closed(answers: int, **changes: object) -> Run:
    """A closed run with right answers in one second."""
    defaults = {"rate_per_s": None, "connections": 6, "latencies_ms": (9.0,) * answers}
    return run(**{**defaults, "sent": answers, **changes})


def at_5_per_s(*latencies_ms: float, **changes: object) -> Run:
    defaults = {"rate_per_s": 5.0, "latencies_ms": latencies_ms, "sent": len(latencies_ms)}
    return run(**{**defaults, **changes})


def test_a_row_has_medians_over_rounds_with_the_extremes() -> None:
    # One caller at 5/s takes 4 ms in one round and 7 ms in the other; back to back it takes 1 ms.
    limits = (
        limit(rate_per_s=5.0, latencies_ms=(4.0,), round=0),
        limit(rate_per_s=5.0, latencies_ms=(7.0,), round=1),
        limit(latencies_ms=(1.0,), round=0),
    )
    first = visit(
        "peer",
        closed(1, failed={"429": 2}),
        at_5_per_s(9.0, wrong=1),
        limit=limit(),
        ready_s=2.0,
        memory_mb=100.0,
        highest=HighestRate(passed_per_s=100, failed_per_s=106, arrivals=350),
    )
    given_up = run(given_up=True, failed={"500": 9})
    second = visit(
        "peer",
        *(closed(6), at_5_per_s(9.0, failed={"lost": 1}), given_up),
        limit=limit(latencies_ms=(1.0,) * 8),
        round=1,
        ready_s=1.0,
        memory_mb=100.0,
    )

    row = server_row(case_result(first, second, limits=limits), "peer")

    assert dict(zip(HEADER[1:], row, strict=True)) == {
        "server": "peer",
        "saturated /s": "3.5 (1.0–6.0)",
        "÷ limit": "0.62 (0.50–0.75)",  # 1 of 2/s and 6 of 8/s, each within its round
        "highest rate": "100 (failed at 106)",
        "p50 / p99 ms": "9.0 / 9.0",
        "added ms": "3.5 (2.0–5.0)",
        "start s": "1.5 (1.0–2.0)",
        "memory MB": "100",
        "failed": "3",
        "wrong": "1",
    }


def test_failed_and_partial_visits_are_rows_with_the_error_or_dashes() -> None:
    failed = case_result(visit("peer", error="ended with 1 while starting"))
    result = case_result(visit("peer", closed(20)))

    row = server_row(result, "peer")

    assert server_row(failed, "peer") == [
        *("peer", "not measured: ended with 1 while starting"),
        *[""] * 8,
    ]
    assert row == ["peer", "20.0", "–", "–", "– / –", "–", "–", "–", "0", "0"]


def test_an_overload_shows_the_share_of_refusals() -> None:
    overload = run(rate_per_s=30.0, sent=40, latencies_ms=(1.0,) * 10, failed={"429": 30})
    calm = run(rate_per_s=30.0, sent=40, latencies_ms=(2.0,) * 40)
    settings = {"CLASSIFIER_WORKERS": "2"}
    parts = visit("peer", closed(20), overload, calm, settings=settings, growth_mb=2.5)
    found = session(case_result(parts, visit("steady", closed(20))))

    text = as_text(found.model_copy(update={"name": "load-none"}))

    # 50 answers in 2 s, of a capacity of 20/s; 30 of 80 were refused.
    assert "| none | peer | 30/s, 2 s | 25.0 of 20.0 | 2 / 2 | 37.5% 429 | 0 | +2.5 |" in text
    assert "| none | steady | 6 connections, 20 requests | 20.0 | 9 / 9 | 0 | 0 |  |" in text


def test_the_published_page_matches_the_stored_sessions() -> None:
    page, sessions = report.PAGE.read_text(), stored_sessions()

    assert page_with(page, generated_part(sessions)) == page  # else run `make bench-report`
    for picture in report.PICTURES.iterdir():
        assert f"performance/{picture.name}" in page
    for found in sessions:
        assert found.file_name in page
