"""The load generator against real servers: what it times, what it counts as wrong."""

import threading
import time

import pytest

from benchmarks import load
from benchmarks.exchanges import Exchange, recorded
from benchmarks.load import closed_run, open_run
from benchmarks.schedule import poisson_schedule
from tests.benchmarks.servers import named, right, serving, target


def test_right_answers_are_counted_and_timed() -> None:
    with serving(right) as port:
        run = open_run(target(port), rate_per_s=200, duration_s=0.5, seed=1)

    assert run.failures == run.wrong == 0
    assert len(run.latencies_ms) == len(run.send_skew_ms) > 50
    assert run.client_cpu_s > 0


def test_a_stall_counts_for_every_request_that_arrived_during_it() -> None:
    # The server's only thread stops for 1 s at its 20th request. A client that waits for answers
    # before it sends would see one slow request: coordinated omission.
    def stalls_once(number: int, body: bytes) -> tuple[int, bytes]:
        if number == 20:
            threading.Event().wait(1.0)
        return right(number, body)

    with serving(stalls_once) as port:
        run = open_run(target(port), rate_per_s=100, duration_s=2.0, seed=5)

    # About 100 arrivals fall into the second of the stall; their waits spread evenly over
    # 0..1000 ms, so about half of them waited more than half a second.
    slow = [latency for latency in run.latencies_ms if latency > 500]
    assert len(slow) > 25
    assert max(run.latencies_ms) > 950
    assert run.failures == 0


def test_an_answer_for_another_image_is_wrong() -> None:
    def swaps_two(_number: int, body: bytes) -> tuple[int, bytes]:
        return 200, named({0: 1, 1: 0, 2: 2}[int(body)])

    with serving(swaps_two) as port:
        run = closed_run(target(port), connections=1, duration_s=60, seed=0, most_requests=30)

    # Image 2 of every 3 is right.
    answered = len(run.latencies_ms)
    assert answered > 3
    assert abs(run.wrong - answered * 2 / 3) <= 1


def test_an_answer_that_cannot_be_read_is_wrong() -> None:
    with serving(lambda _number, _body: (200, b'{"predictions": []}')) as port:
        run = closed_run(target(port), connections=1, duration_s=60, seed=0, most_requests=5)

    assert run.wrong == len(run.latencies_ms) > 0


def test_failures_are_counted_by_status_and_are_not_timed() -> None:
    def refuses_every_third(number: int, body: bytes) -> tuple[int, bytes]:
        return (429, b"{}") if number % 3 == 2 else right(number, body)

    with serving(refuses_every_third) as port:
        run = open_run(target(port), rate_per_s=300, duration_s=0.5, seed=2)

    sent = len(run.send_skew_ms)
    assert run.failed == {"429": sent // 3}
    assert len(run.latencies_ms) == sent - sent // 3


def test_a_closed_connection_is_a_lost_request_and_the_next_goes_on() -> None:
    def drops_one(number: int, body: bytes) -> tuple[int, bytes]:
        return (0, b"") if number == 4 else right(number, body)

    with serving(drops_one) as port:
        run = closed_run(target(port), connections=2, duration_s=60, seed=0, most_requests=30)

    assert run.failed == {"lost": 1}
    assert run.wrong == 0


def test_nobody_listening_is_a_failure_of_every_request() -> None:
    with serving(right) as port:
        pass

    run = open_run(target(port), rate_per_s=50, duration_s=0.2, seed=1)

    assert run.failed == {"lost": len(run.send_skew_ms)}
    assert run.latencies_ms == ()


def test_closed_load_sends_one_request_a_connection_and_pauses_after_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The run is shorter than the pause: nobody gets a second turn.
    monkeypatch.setattr(load, "PAUSE_S", 60)
    with serving(lambda _number, _body: (429, b"{}")) as port:
        run = closed_run(target(port), connections=3, duration_s=0.1, seed=0)

    assert run.failed == {"429": 3}
    assert (run.connections, run.offered_rate_per_s) == (3, None)


def test_the_generators_own_lateness_is_part_of_the_latency() -> None:
    # Due at 10.0 s, sent 0.5 s late, answered at 10.75 s: the user waited 750 ms.
    late = Exchange(image=0, due_s=10.0, skew_s=0.5, answered_s=10.75, status=200, body=named(0))

    run = recorded(target(0), [late], mode="open", offered_rate_per_s=1.0, duration_s=1.0, seed=0)

    assert run.latencies_ms == (750.0,)
    assert run.wrong == 0


def test_who_was_refused_just_before_the_end_sends_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "PAUSE_S", 0.2)
    delays = iter([0, 0.6])  # the second answer keeps the run waiting beyond the pause

    def refuses(_number: int, _body: bytes) -> tuple[int, bytes]:
        time.sleep(next(delays, 0))
        return 429, b"{}"

    with serving(refuses) as port:
        run = closed_run(target(port), connections=2, duration_s=0.1, seed=0)

    assert run.failed == {"429": 2}


def test_a_closed_run_ends_when_enough_was_sent() -> None:
    with serving(right) as port:
        run = closed_run(target(port), connections=4, duration_s=60, seed=0, most_requests=25)

    assert len(run.latencies_ms) == 25
    assert run.elapsed_s < 30


def test_a_run_that_cannot_be_in_the_budget_is_given_up() -> None:
    # No answer takes 0 ms. Of about 500 arrivals 1 % may be late; one more ends the run.
    with serving(right) as port:
        late = open_run(target(port), rate_per_s=50, duration_s=10, seed=1, give_up_above_ms=0)
        timely = open_run(
            target(port), rate_per_s=200, duration_s=0.2, seed=1, give_up_above_ms=60_000
        )

    assert late.given_up
    assert len(late.latencies_ms) >= 5
    assert len(late.send_skew_ms) == len(late.latencies_ms)
    assert not timely.given_up
    assert len(timely.latencies_ms) == len(poisson_schedule(200, 0.2, 3, 1).arrivals_s)


def test_a_failure_ends_a_probe_and_nothing_else() -> None:
    def refuses(_number: int, _body: bytes) -> tuple[int, bytes]:
        return 429, b"{}"

    with serving(refuses) as port:
        probe = open_run(
            target(port), rate_per_s=50, duration_s=10, seed=1, give_up_above_ms=60_000
        )
        plain = open_run(target(port), rate_per_s=50, duration_s=0.5, seed=1)

    assert probe.given_up
    assert not plain.given_up
    assert plain.failures == len(poisson_schedule(50, 0.5, 3, 1).arrivals_s)
