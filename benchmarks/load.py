"""Load on one server: open loop at scheduled times, or closed loop at saturation."""

import asyncio
import contextlib
import gc
import selectors
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from benchmarks.http_client import LOST, ConnectionPool
from benchmarks.record import Run
from benchmarks.schedule import Schedule, poisson_schedule

LEAD_S = 0.05
"""Between the call and the first scheduled arrival."""

DRAIN_S = 10.0
"""How long after the last arrival an answer still counts; later ones are failed: timeout."""

PAUSE_S = 0.05
"""How long a closed loop waits after a refusal before it takes the connection's next turn."""

LOOPBACK = "127.0.0.1"

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server and what to ask it.

    Attributes:
        server, model, images: Names for the record.
        port: On the loopback address; nothing else is ever a target.
        requests: Whole HTTP requests, one for each image of the mix.
        accepted: For each image, the classes that count as right (several where the
            reference's best logits are nearly equal).
        read_class: Takes the body of a 200, returns the top class. A LookupError, TypeError or
            ValueError it raises makes the answer a wrong one.
    """

    server: str
    model: str
    images: str
    port: int
    requests: tuple[bytes, ...]
    accepted: tuple[frozenset[int], ...]
    read_class: Callable[[bytes], int]


@dataclass(slots=True)
class Exchange:
    """One request and its fate; times are seconds of the event loop's clock."""

    image: int
    due_s: float
    skew_s: float = 0.0
    answered_s: float | None = None
    status: int = LOST
    body: bytes = b""


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


def open_run(target: Target, *, rate_per_s: float, duration_s: float, seed: int) -> Run:
    """Offer Poisson arrivals at a rate, whatever the replies."""
    schedule = poisson_schedule(rate_per_s, duration_s, len(target.requests), seed)
    gc.collect()
    started_cpu_s = time.process_time()
    exchanges = run_in_loop(send_on_schedule(target, schedule))
    return recorded(
        target,
        exchanges,
        mode="open",
        offered_rate_per_s=rate_per_s,
        duration_s=duration_s,
        seed=seed,
        send_skew_ms=tuple(round(exchange.skew_s * 1e3, 3) for exchange in exchanges),
        client_cpu_s=time.process_time() - started_cpu_s,
    )


def closed_run(target: Target, *, connections: int, duration_s: float, seed: int) -> Run:
    """Keep a number of requests in flight: the most the server can do."""
    gc.collect()
    started_cpu_s = time.process_time()
    exchanges = run_in_loop(send_in_turn(target, connections, duration_s, seed))
    return recorded(
        target,
        exchanges,
        mode="closed",
        connections=connections,
        duration_s=duration_s,
        seed=seed,
        client_cpu_s=time.process_time() - started_cpu_s,
    )


async def send_on_schedule(target: Target, schedule: Schedule) -> list[Exchange]:
    """Send each request at its time, never waiting for an answer; return all exchanges."""
    loop = asyncio.get_running_loop()
    pool = ConnectionPool(LOOPBACK, target.port)
    start_s = loop.time() + LEAD_S
    exchanges = [
        Exchange(image=image, due_s=start_s + arrival_s)
        for arrival_s, image in zip(schedule.arrivals_s, schedule.image_indices, strict=True)
    ]
    outstanding = Outstanding(loop)
    for exchange in exchanges:
        while (early_s := exchange.due_s - loop.time()) > 0:
            await asyncio.sleep(early_s)
        exchange.skew_s = loop.time() - exchange.due_s
        pool.send(target.requests[exchange.image], outstanding.expect(exchange))
        # Behind schedule, no sleep would give the loop a turn to read the answers.
        await asyncio.sleep(0)
    await outstanding.drained(DRAIN_S)
    await pool.close()
    return exchanges


async def send_in_turn(
    target: Target, connections: int, duration_s: float, seed: int
) -> list[Exchange]:
    """Answer every answer with the next request until the time is up."""
    loop = asyncio.get_running_loop()
    pool = ConnectionPool(LOOPBACK, target.port)
    end_s = loop.time() + duration_s
    exchanges: list[Exchange] = []
    outstanding = Outstanding(loop)

    def send_next() -> None:
        # A fixed stride that shares no factor with usual mix sizes: all images in turn.
        image = (seed + 7 * len(exchanges)) % len(target.requests)
        exchange = Exchange(image=image, due_s=loop.time())
        exchanges.append(exchange)
        pool.send(target.requests[image], outstanding.expect(exchange, then=continue_))

    def continue_(exchange: Exchange) -> None:
        if loop.time() < end_s:
            if exchange.status != HTTPStatus.OK:  # refused at once: without a pause, a busy loop
                loop.call_later(PAUSE_S, send_next)
            else:
                send_next()

    for _ in range(connections):
        send_next()
    await asyncio.sleep(duration_s)
    await outstanding.drained(DRAIN_S)
    await pool.close()
    return exchanges


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


def recorded(target: Target, exchanges: Sequence[Exchange], **conditions: Any) -> Run:
    """Judge every answer, after the load so that judging costs the server nothing."""
    latencies_ms: list[float] = []
    failed: Counter[str] = Counter()
    wrong = 0
    for exchange in exchanges:
        if exchange.answered_s is None:
            failed["timeout"] += 1
        elif exchange.status != HTTPStatus.OK:
            failed["lost" if exchange.status == LOST else str(exchange.status)] += 1
        else:
            latencies_ms.append(round((exchange.answered_s - exchange.due_s) * 1e3, 3))
            wrong += not is_right(target, exchange)
    last_s = max((e.answered_s for e in exchanges if e.answered_s is not None), default=None)
    return Run(
        server=target.server,
        model=target.model,
        images=target.images,
        latencies_ms=tuple(latencies_ms),
        failed=dict(failed),
        wrong=wrong,
        elapsed_s=last_s - exchanges[0].due_s if last_s is not None else conditions["duration_s"],
        **conditions,
    )


def is_right(target: Target, exchange: Exchange) -> bool:
    """Whether a 200 names a class the reference accepts for its image."""
    try:
        return target.read_class(exchange.body) in target.accepted[exchange.image]
    except (LookupError, TypeError, ValueError):
        return False
