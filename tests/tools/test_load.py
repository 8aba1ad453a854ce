"""The load generator against real servers: latencies, failures and wrong answers."""

import asyncio
import dataclasses
import functools
import itertools
import resource
import threading
import time

import pytest

from tests.tools.runs import run
from tests.tools.tiny_servers import prediction, right, serving, target
from tools import load
from tools.load import Run, closed_run, open_run, poisson_arrivals, read_answer, search_highest_rate


def test_the_open_loop_keeps_its_schedule_while_the_server_stalls() -> None:
    # The server's only thread stops for 1 s at its 20th request. A client that waited for answers
    # would see a single slow request: coordinated omission.
    def stalls_once(number: int, body: bytes) -> tuple[int, bytes]:
        if number == 20:
            threading.Event().wait(1.0)
        return right(number, body)

    with serving(stalls_once) as port:
        found = open_run(target(port), rate_per_s=100, duration_s=2.0, seed=5)

    # About 100 requests arrive during the stall and wait 0..1000 ms, evenly spread: half of them
    # wait more than 500 ms.
    assert sum(latency > 500 for latency in found.latencies_ms) > 25
    assert max(found.latencies_ms) > 950
    assert found.failures == found.wrong == 0
    assert len(found.latencies_ms) == found.sent == len(poisson_arrivals(100, 2.0, 3, 5))


def test_connections_are_limited_by_the_files_the_process_may_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (20, 20))
    handlers: list[int] = []

    def slow(number: int, body: bytes) -> tuple[int, bytes]:
        handlers.append(threading.active_count())
        threading.Event().wait(0.01)
        return right(number, body)

    before = threading.active_count()
    with serving(slow) as port:
        found = open_run(target(port), rate_per_s=300, duration_s=0.5, seed=5)

    # About 100 requests wait at the end, and none is lost. The server itself has one thread.
    assert found.failures == found.wrong == 0
    assert 5 < max(handlers) - before <= 11


def test_swapped_and_unreadable_answers_are_wrong() -> None:
    def swaps_two(_number: int, body: bytes) -> tuple[int, bytes]:
        return 200, prediction({0: 1, 1: 0, 2: 2}[int(body)])

    with serving(swaps_two) as port:
        found = closed_run(target(port), connections=1, duration_s=0.5)

    # Three images in turn, of which 2 is right.
    right_answers = sum(number % 3 == 2 for number in range(found.sent))
    assert found.wrong == found.sent - right_answers > 0
    assert found.answered_per_s == pytest.approx(right_answers / found.elapsed_s)
    for body in (b'{"predictions": []}', b"not JSON", b"null"):
        assert not target(0).is_right(0, body)


def test_failures_are_counted_by_reason_and_not_timed() -> None:
    def fails_twice(number: int, body: bytes) -> tuple[int, bytes]:
        return {4: (429, b"{}"), 5: (0, b"")}.get(number) or right(number, body)

    with serving(fails_twice) as port:
        found = closed_run(target(port), connections=2, duration_s=0.5)
    nobody = open_run(target(port), rate_per_s=50, duration_s=0.2, seed=1)

    assert found.failed == {"429": 1, "lost": 1}
    assert len(found.latencies_ms) == found.sent - 2 > 0
    assert found.wrong == 0
    assert nobody.failed == {"lost": nobody.sent}
    assert not nobody.within(1e9)


def test_a_broken_file_must_be_refused_as_such() -> None:
    def answer(status: int, number: int, body: bytes) -> tuple[int, bytes]:
        return (status, prediction(9)) if body == b"1" else right(number, body)

    found = {}
    for status in (422, 200, 500):
        with serving(functools.partial(answer, status)) as port:
            broken = dataclasses.replace(target(port), broken=frozenset({1}))
            run = closed_run(broken, connections=1, duration_s=0.5)
        # Three images in turn, of which 1 is broken.
        sent_broken = sum(number % 3 == 1 for number in range(run.sent))
        untimed = run.sent - len(run.latencies_ms)
        found[status] = [n / sent_broken for n in (run.failures, run.wrong, untimed)]

    assert found == {422: [0, 0, 1], 200: [0, 1, 0], 500: [1, 0, 1]}


def test_late_answers_are_timeouts_and_refusals_are_followed_by_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load, "DRAIN_S", 0.1)
    monkeypatch.setattr(load, "PAUSE_S", 0.3)  # longer than the run

    def slow(_number: int, _body: bytes) -> tuple[int, bytes]:
        time.sleep(1)
        return 200, b""

    with serving(slow) as port:
        late = closed_run(target(port), connections=1, duration_s=0.1)
    with serving(lambda _number, _body: (429, b"{}")) as port:
        refused = closed_run(target(port), connections=3, duration_s=0.1)

    assert (late.sent, late.failed) == (1, {"timeout": 1})
    assert refused.failed == {"429": 3}


def test_a_probe_that_is_late_or_fails_ends_early() -> None:
    # No answer takes 0 ms. Of about 500 arrivals 1 % may be late; one more ends the run.
    with serving(right) as port:
        late = open_run(target(port), rate_per_s=50, duration_s=10, seed=1, give_up_above_ms=0)
        timely = open_run(target(port), rate_per_s=50, duration_s=0.2, seed=1, give_up_above_ms=6e4)
    with serving(lambda _number, _body: (429, b"{}")) as port:
        failed = open_run(target(port), rate_per_s=50, duration_s=10, seed=1, give_up_above_ms=6e4)
        plain = open_run(target(port), rate_per_s=50, duration_s=0.5, seed=1)

    assert late.given_up and failed.given_up and not timely.given_up
    assert late.sent < 100
    assert plain.failures == len(poisson_arrivals(50, 0.5, 3, 1))


def test_arrivals_are_a_poisson_process_determined_by_the_seed() -> None:
    arrivals = poisson_arrivals(200, 100, images=4, seed=1)
    times = [time_s for time_s, _ in arrivals]

    # 20,000 expected, standard deviation sqrt(20,000) = 141; 4 of them are 566.
    assert len(times) == pytest.approx(20_000, abs=566)
    assert 0 <= times[0] <= times[-1] < 100
    # A share exp(-1) = 0.3679 of exponential gaps exceeds the mean of 1/200 s; of even gaps, none
    # or all. The tolerance is 4 standard deviations for 20,000 gaps.
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert sum(gap > 1 / 200 for gap in gaps) / len(gaps) == pytest.approx(0.3679, abs=0.014)
    assert {image for _, image in arrivals} == {0, 1, 2, 3}
    assert arrivals == poisson_arrivals(200, 100, images=4, seed=1)
    assert arrivals != poisson_arrivals(200, 100, images=4, seed=2)


def test_a_rate_passes_with_its_p99_in_the_budget_and_no_error() -> None:
    # Of 100 requests, the 99th latency is the p99, so one may be late.
    assert run(latencies_ms=(50.0,) * 99 + (900.0,)).within(50)
    assert not run(latencies_ms=(50.0,) * 98 + (51.0, 900.0)).within(50)
    for changes in ({"failed": {"500": 1}}, {"wrong": 1}, {"given_up": True}):
        assert not run(**changes).within(50)


def test_the_search_finds_the_rate_the_server_sustains() -> None:
    offered: list[float] = []

    def holds_30(rate_per_s: float, _duration_s: float) -> Run:
        offered.append(rate_per_s)
        return run(latencies_ms=(10.0 if rate_per_s <= 30 else 90.0,) * 100)

    found = search_highest_rate(holds_30, saturated_per_s=100, budget_ms=50, probes=3, probe_s=10)

    # sqrt(10 · 100) = 31.62 fails, sqrt(10 · 31.62) = 17.78 passes, sqrt(17.78 · 31.62) = 23.71.
    assert offered == [31.62, 17.78, 23.71]
    assert (found.passed_per_s, found.failed_per_s) == (23.71, 31.62)
    # 31.62/s takes 350 / 31.62 = 11.07 s, 23.71/s takes 14.76 s: 350 arrivals each.
    assert found.arrivals == 350


def test_the_search_reports_how_few_requests_decided() -> None:
    durations: list[float] = []

    def fails(_rate_per_s: float, duration_s: float) -> Run:
        durations.append(duration_s)
        return run(given_up=True)

    found = search_highest_rate(fails, saturated_per_s=10, budget_ms=50, probes=1, probe_s=5)
    silent = search_highest_rate(fails, saturated_per_s=0, budget_ms=50, probes=4, probe_s=5)

    # sqrt(1 · 10) = 3.16/s for at most 3 × 5 s: 47 arrivals. A server without answers: no search.
    assert durations == [15]
    assert (found.passed_per_s, found.failed_per_s, found.arrivals) == (0, 3.16, 47)
    assert (silent.passed_per_s, silent.failed_per_s) == (0, None)


PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nhel\r\n2;name=value\r\nlo\r\n0\r\n\r\n"
)


def answer_in(data: bytes) -> tuple[int, bytes]:
    async def read() -> tuple[int, bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await read_answer(reader)

    return asyncio.run(read())


def test_answers_are_read_with_a_length_or_in_chunks_and_only_if_complete() -> None:
    assert answer_in(PLAIN) == (200, b"hello")
    assert answer_in(CHUNKED) == (503, b"hello")
    for data in (PLAIN[:-1], CHUNKED[:-2], PLAIN[:20]):
        with pytest.raises(EOFError):
            answer_in(data)
    for data in (b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"):
        with pytest.raises(ValueError, match=r"expected HTTP/1\.1|neither Content-Length"):
            answer_in(data)
