"""Load on one server: open loop at scheduled times, or closed loop at saturation."""

import asyncio
import contextlib
import gc
import selectors
import time
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, TypeVar

from benchmarks.exchanges import LOOPBACK, Exchange, Target, recorded
from benchmarks.highest_rate import allowed_late
from benchmarks.http_client import ConnectionPool
from benchmarks.record import Run
from benchmarks.schedule import Schedule, poisson_schedule

LEAD_S = 0.05
"""Between the call and the first scheduled arrival."""

DRAIN_S = 10.0
"""How long after the last arrival an answer still counts; later ones are failed: timeout."""

PAUSE_S = 0.05
"""How long a closed loop waits after a refusal before it takes the connection's next turn."""

Result = TypeVar("Result")


def run_in_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """Run in an event loop that wakes to the microsecond, with the garbage collector off.

    The default selector, epoll, rounds every wait up to a whole millisecond, which would
    make the generator up to 1 ms late for every arrival; select(2) does not round.
    """
    gc.disable()
    try:
        with asyncio.Runner(
            loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
        ) as runner:
            return runner.run(main)
    finally:
        gc.enable()


def open_run(
    target: Target,
    *,
    rate_per_s: float,
    duration_s: float,
    seed: int,
    give_up_above_ms: float | None = None,
) -> Run:
    """Offer Poisson arrivals at a rate, whatever the replies.

    Args:
        give_up_above_ms: End when the p99 of the whole schedule is certain to be above this, or a
            request has failed; None never does.
    """
    schedule = poisson_schedule(rate_per_s, duration_s, len(target.requests), seed)
    gc.collect()
    started_cpu_s = time.process_time()
    exchanges = run_in_loop(send_on_schedule(target, schedule, give_up_above_ms))
    return recorded(
        target,
        exchanges,
        mode="open",
        offered_rate_per_s=rate_per_s,
        duration_s=duration_s,
        seed=seed,
        send_skew_ms=tuple(round(exchange.skew_s * 1e3, 3) for exchange in exchanges),
        given_up=len(exchanges) < len(schedule.arrivals_s),
        client_cpu_s=time.process_time() - started_cpu_s,
    )


def closed_run(
    target: Target,
    *,
    connections: int,
    duration_s: float,
    seed: int,
    most_requests: int | None = None,
) -> Run:
    """Keep a number of requests in flight until the time is up or `most_requests` are sent."""
    gc.collect()
    started_cpu_s = time.process_time()
    exchanges = run_in_loop(
        send_in_turn(target, connections, duration_s, seed, most_requests=most_requests)
    )
    return recorded(
        target,
        exchanges,
        mode="closed",
        connections=connections,
        duration_s=duration_s,
        seed=seed,
        client_cpu_s=time.process_time() - started_cpu_s,
    )


async def send_on_schedule(
    target: Target, schedule: Schedule, give_up_above_ms: float | None = None
) -> list[Exchange]:
    """Send each request at its time, never waiting for an answer; return all that were sent."""
    loop = asyncio.get_running_loop()
    pool = ConnectionPool(LOOPBACK, target.port)
    start_s = loop.time() + LEAD_S
    exchanges = [
        Exchange(image=image, due_s=start_s + arrival_s)
        for arrival_s, image in zip(schedule.arrivals_s, schedule.image_indices, strict=True)
    ]
    outstanding = Outstanding(loop)
    hopeless = Hopeless(give_up_above_ms, len(exchanges))
    for sent, exchange in enumerate(exchanges):
        while (early_s := exchange.due_s - loop.time()) > 0:
            await asyncio.sleep(early_s)
        if hopeless:
            del exchanges[sent:]
            break
        exchange.skew_s = loop.time() - exchange.due_s
        answered = outstanding.expect(exchange, then=hopeless.count)
        pool.send(target.requests[exchange.image], answered)
        # Behind schedule, no sleep would give the loop a turn to read the answers.
        await asyncio.sleep(0)
    await outstanding.drained(DRAIN_S)
    await pool.close()
    return exchanges


async def send_in_turn(
    target: Target,
    connections: int,
    duration_s: float,
    seed: int,
    *,
    most_requests: int | None = None,
) -> list[Exchange]:
    """Answer every answer with the next request until the time is up or enough are sent."""
    loop = asyncio.get_running_loop()
    pool = ConnectionPool(LOOPBACK, target.port)
    end_s = loop.time() + duration_s
    exchanges: list[Exchange] = []
    outstanding = Outstanding(loop)
    enough = asyncio.Event()

    def send_next() -> None:
        if len(exchanges) == most_requests:
            enough.set()
            return
        if loop.time() >= end_s:
            return
        # A fixed stride that shares no factor with usual mix sizes: all images in turn.
        image = (seed + 7 * len(exchanges)) % len(target.requests)
        exchange = Exchange(image=image, due_s=loop.time())
        exchanges.append(exchange)
        pool.send(target.requests[image], outstanding.expect(exchange, then=continue_))

    def continue_(exchange: Exchange) -> None:
        if exchange.status != HTTPStatus.OK:  # refused at once: without a pause, a busy loop
            loop.call_later(PAUSE_S, send_next)
        else:
            send_next()

    for _ in range(connections):
        send_next()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(duration_s):
            await enough.wait()
    await outstanding.drained(DRAIN_S)
    await pool.close()
    return exchanges


class Hopeless:
    """True when too many answers were late, or one failed, for a run to be within its budget."""

    def __init__(self, budget_ms: float | None, requests: int) -> None:
        self._budget_ms = budget_ms
        self._spare = allowed_late(requests)

    def __bool__(self) -> bool:
        return self._spare < 0

    def count(self, exchange: Exchange) -> None:
        """Take one answer into account."""
        if self._budget_ms is None:
            return
        if exchange.status != HTTPStatus.OK:
            self._spare = -1
        elif exchange.latency_ms > self._budget_ms:
            self._spare -= 1


class Outstanding:
    """Counts the requests without an answer and wakes who waits for the last."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._count = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._closed = False

    def expect(
        self, exchange: Exchange, then: Callable[[Exchange], None] | None = None
    ) -> Callable[[int, bytes], None]:
        """Count one request; the returned function takes its answer."""
        self._count += 1
        self._empty.clear()

        def take(status: int, body: bytes) -> None:
            if self._closed:
                return
            exchange.answered_s, exchange.status, exchange.body = self._loop.time(), status, body
            self._count -= 1
            if then:
                then(exchange)
            if not self._count:
                self._empty.set()

        return take

    async def drained(self, within_s: float) -> None:
        """Wait for the answers that are missing, but no longer than `within_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._empty.wait()
        self._closed = True
