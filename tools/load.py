"""HTTP load on a server of this machine, open or closed loop, with every answer checked."""

import asyncio
import contextlib
import gc
import json
import math
import random
import resource
import select
import selectors
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np

LOOPBACK = "127.0.0.1"

DRAIN_S = 10.0
"""Seconds after the end of a run within which an answer counts; later ones are timeouts."""
PAUSE_S = 0.05
"""Seconds a connection of a closed loop pauses after a failure."""
MAX_IDLE_S = 2.0
"""Servers may close connections that are idle for 5 s (uvicorn's default); a request sent at that
moment would be lost."""
FILE_REFUSED = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)
"""Answers to a broken image file."""
MAX_CONNECTIONS = 2_000
"""Connections of a run, and at most half of the files that the process may open; further requests
wait."""
EXPECTED_ARRIVALS = 350
"""A probe of a search lasts long enough for these, so that 3 requests exceed the p99, but at most
three times as long as usual."""
NO_CLASS = -1
"""The answer without predictions: no label reaches the threshold of the model."""


def best_prediction(body: bytes) -> int:
    """Return the first class of `{"predictions": [{"class_id": …}, …]}`, or `NO_CLASS`."""
    predictions = json.loads(body)["predictions"]
    return int(predictions[0]["class_id"]) if predictions else NO_CLASS


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server, the requests to send and the right answers.

    Attributes:
        port: On the loopback address.
        requests: Complete HTTP requests, one per image.
        accepted: For each image, the classes that count as right (several where the best logits
            are nearly equal).
        read_class: Returns the top class in the body of a 200; a LookupError, TypeError or
            ValueError means a wrong answer.
        broken: Images that cannot be decoded: a matching 4xx is right, a 200 is wrong.
    """

    port: int
    requests: tuple[bytes, ...]
    accepted: tuple[frozenset[int], ...]
    read_class: Callable[[bytes], int] = best_prediction
    broken: frozenset[int] = frozenset()

    def is_right(self, image: int, body: bytes) -> bool:
        """Return whether the body of a 200 names an accepted class of the image."""
        try:
            return self.read_class(body) in self.accepted[image]
        except (LookupError, TypeError, ValueError):
            return False


@dataclass(frozen=True, kw_only=True)
class Run:
    """The result of one load run.

    Attributes:
        rate_per_s: Poisson arrivals per second, independent of the answers; None in closed loop.
        connections: Requests kept in flight; None in open loop.
        duration_s: Length of the schedule or of the closed loop.
        elapsed_s: From the first arrival to the last answer.
        sent: Requests sent.
        latencies_ms: Every request answered 200, in the order sent, from its scheduled arrival
            (open) or its sending (closed); nothing is trimmed.
        failed: Counts of other statuses and missing answers, by reason; not in `latencies_ms`, as
            are broken images that were refused.
        wrong: Requests answered 200 with a class that is not accepted.
        skew_p99_ms: Delay of the generator itself, part of every latency; 0 in closed loop.
        given_up: Whether it ended early, because it was certain to exceed its budget.
        client_cpu_s, server_cpu_s: Processor time of the generator and of the server's processes.
    """

    rate_per_s: float | None = None
    connections: int | None = None
    duration_s: float
    elapsed_s: float
    sent: int
    latencies_ms: tuple[float, ...]
    failed: dict[str, int]
    wrong: int
    skew_p99_ms: float = 0.0
    given_up: bool = False
    client_cpu_s: float = 0.0
    server_cpu_s: float = 0.0

    @property
    def failures(self) -> int:
        """Requests without a usable answer."""
        return sum(self.failed.values())

    @property
    def answered_per_s(self) -> float:
        """Right answers per second, up to the last answer."""
        return (len(self.latencies_ms) - self.wrong) / self.elapsed_s if self.elapsed_s else 0.0

    def percentile_ms(self, percent: float) -> float:
        """Return the nearest-rank percentile of the latencies; inf without answers."""
        return nearest_rank(self.latencies_ms, percent) if self.latencies_ms else math.inf

    def within(self, budget_ms: float) -> bool:
        """Return whether no request failed or was wrong and the p99 is within the budget."""
        complete = not (self.failures or self.wrong or self.given_up)
        return complete and self.percentile_ms(99) <= budget_ms

    def in_words(self) -> str:
        """Return a line for progress output."""
        offered = "saturated" if self.rate_per_s is None else f"{self.rate_per_s:g}/s"
        failed = f", failed {self.failed}" if self.failed else ""
        wrong = f", {self.wrong} wrong" if self.wrong else ""
        answered = f"{self.answered_per_s:.1f}/s answered"
        if self.given_up:
            answered = f"given up after {len(self.latencies_ms)} answers"
        return (
            f"{offered}: {answered}, p50 {self.percentile_ms(50):.1f} "
            f"p99 {self.percentile_ms(99):.1f} ms{failed}{wrong}"
        )


@dataclass(frozen=True, kw_only=True)
class HighestRate:
    """Result of a search for the highest rate within a budget.

    Attributes:
        passed_per_s: Highest rate that passed; 0 if none did.
        failed_per_s: Lowest rate that failed; None if none did.
        arrivals: In the shorter of the runs at these rates; fewer than 300 are few for a p99.
    """

    passed_per_s: float
    failed_per_s: float | None
    arrivals: int


def nearest_rank(samples: Sequence[float], percent: float) -> float:
    """Return the smallest of the samples that at least `percent` % of them do not exceed."""
    return float(np.percentile(samples, percent, method="inverted_cdf"))


def poisson_arrivals(
    rate_per_s: float, duration_s: float, images: int, seed: int
) -> list[tuple[float, int]]:
    """Draw arrivals of independent users, a Poisson process.

    The same arguments give the same arrivals everywhere: Python guarantees `Random.random`.

    Returns:
        (seconds from the start, in [0, duration_s); index of the image), ascending.
    """
    chance = random.Random(seed)
    times: list[float] = []
    now_s = chance.expovariate(rate_per_s)
    while now_s < duration_s:
        times.append(now_s)
        now_s += chance.expovariate(rate_per_s)
    return [(time_s, int(chance.random() * images)) for time_s in times]


def open_run(
    target: Target,
    *,
    rate_per_s: float,
    duration_s: float,
    seed: int,
    give_up_above_ms: float = math.inf,
) -> Run:
    """Send Poisson arrivals on schedule, independent of the answers.

    Args:
        give_up_above_ms: End early once the p99 is certain to exceed this or a request failed.
    """
    arrivals = poisson_arrivals(rate_per_s, duration_s, len(target.requests), seed)
    sender = Sender(target)
    # So many answers may be late with the nearest-rank p99 still within the budget.
    spare = len(arrivals) - math.ceil(0.99 * len(arrivals))

    async def send_on_schedule() -> None:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        tasks = []
        late = 0.0

        async def send(image: int, due_s: float) -> None:
            nonlocal late
            exchange = await sender.send(image, due_s)
            if give_up_above_ms < math.inf:
                failed = exchange.status != HTTPStatus.OK
                late += math.inf if failed else exchange.latency_ms > give_up_above_ms

        for arrival_s, image in arrivals:
            while (early_s := start_s + arrival_s - loop.time()) > 0:
                await asyncio.sleep(early_s)
            if late > spare:
                break
            tasks.append(loop.create_task(send(image, start_s + arrival_s)))
            # Behind schedule, the loop needs this to read answers.
            await asyncio.sleep(0)
        await sender.finish(tasks, DRAIN_S)

    client_cpu_s = _run_loop(send_on_schedule())
    return sender.judged(
        rate_per_s=rate_per_s,
        duration_s=duration_s,
        given_up=len(sender.exchanges) < len(arrivals),
        client_cpu_s=client_cpu_s,
    )


def closed_run(target: Target, *, connections: int, duration_s: float, seed: int = 0) -> Run:
    """Keep requests in flight until the time is up."""
    sender = Sender(target)
    exchanges = sender.exchanges

    async def send_in_turn() -> None:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + duration_s

        async def repeat() -> None:
            while loop.time() < end_s:
                image = (seed + len(exchanges)) % len(target.requests)
                exchange = await sender.send(image, loop.time())
                if exchange.status != HTTPStatus.OK:  # an immediate refusal would be a busy loop
                    await asyncio.sleep(PAUSE_S)

        tasks = [loop.create_task(repeat()) for _ in range(connections)]
        await sender.finish(tasks, duration_s + DRAIN_S)

    client_cpu_s = _run_loop(send_in_turn())
    return sender.judged(connections=connections, duration_s=duration_s, client_cpu_s=client_cpu_s)


def search_highest_rate(
    offer: Callable[[float, float], Run],
    *,
    saturated_per_s: float,
    budget_ms: float,
    probes: int,
    probe_s: float,
) -> HighestRate:
    """Bisect, on a logarithmic scale, between a tenth of the saturated throughput and all of it.

    Every rate is probed once. After n probes the result is known to a factor of 10^(1/2^n), 1.155
    for 4 probes.

    Args:
        offer: Sends (requests per second, seconds) and returns the run.
        saturated_per_s: Throughput of the closed loop: at that rate a queue only grows.
        probe_s: Usual length of a probe; low rates take longer, for more requests.
    """
    passed_per_s, failed_per_s = 0.0, None
    arrivals: dict[float | None, int] = {}
    low_per_s, high_per_s = saturated_per_s / 10, saturated_per_s
    for _ in range(probes if saturated_per_s else 0):
        rate_per_s = round(math.sqrt(low_per_s * high_per_s), 2)
        duration_s = min(max(probe_s, EXPECTED_ARRIVALS / rate_per_s), 3 * probe_s)
        arrivals[rate_per_s] = round(rate_per_s * duration_s)
        if offer(rate_per_s, duration_s).within(budget_ms):
            passed_per_s = low_per_s = rate_per_s
        else:
            failed_per_s = high_per_s = rate_per_s
    decisive = [arrivals[rate] for rate in (passed_per_s, failed_per_s) if rate in arrivals]
    return HighestRate(
        passed_per_s=passed_per_s, failed_per_s=failed_per_s, arrivals=min(decisive, default=0)
    )


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and its answer, if any; times in seconds of the event loop's clock."""

    image: int
    due_s: float
    sent_s: float
    answered_s: float | None = None
    status: int | None = None
    body: bytes = b""

    @property
    def latency_ms(self) -> float:
        """Time from the scheduled arrival to the answer; inf without an answer."""
        return math.inf if self.answered_s is None else (self.answered_s - self.due_s) * 1e3


class Sender:
    """Sends the requests of one run over keep-alive connections, then checks the answers.

    Attributes:
        exchanges: In the order sent.
    """

    def __init__(self, target: Target) -> None:
        self.exchanges: list[Exchange] = []
        self._target = target
        # Last in, first out: few connections stay in use.
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)  # Linux has no unlimited number
        self._slots = asyncio.Semaphore(min(MAX_CONNECTIONS, files // 2))

    async def send(self, image: int, due_s: float) -> Exchange:
        """Send one request and wait for its answer or failure."""
        loop = asyncio.get_running_loop()
        exchange = Exchange(image=image, due_s=due_s, sent_s=loop.time())
        self.exchanges.append(exchange)
        with contextlib.suppress(OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            exchange.status, exchange.body = await self._request(self._target.requests[image])
        exchange.answered_s = loop.time()
        return exchange

    async def _request(self, request: bytes) -> tuple[int, bytes]:
        async with self._slots:
            reader, writer = await self._connection()
            try:
                writer.write(request)
                answer = await read_answer(reader)
            except BaseException:
                writer.transport.abort()
                raise
            self._idle.append((time.monotonic(), reader, writer))
            return answer

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            since_s, reader, writer = self._idle.pop()
            if time.monotonic() - since_s < MAX_IDLE_S and not reader.at_eof():
                return reader, writer
            writer.transport.abort()
        return await asyncio.open_connection(LOOPBACK, self._target.port)

    async def finish(self, tasks: Sequence[asyncio.Task[None]], timeout_s: float) -> None:
        """Wait for sending tasks within a timeout, then close all connections."""
        if tasks:
            finished, unfinished = await asyncio.wait(tasks, timeout=timeout_s)
            for task in unfinished:
                task.cancel()
            for task in finished:
                task.result()  # raises bugs, which would look like lost requests
        for _, _, writer in self._idle:
            writer.transport.abort()
        await asyncio.sleep(0)  # transports close in the loop's next iteration

    def judged(self, **conditions: Any) -> Run:
        """Check all answers and return the run; `conditions` are the remaining fields."""
        latencies_ms: list[float] = []
        failed: Counter[str] = Counter()
        wrong = 0
        for exchange in self.exchanges:
            if exchange.answered_s is None:
                failed["timeout"] += 1
            elif exchange.image in self._target.broken and exchange.status in FILE_REFUSED:
                continue
            elif exchange.status != HTTPStatus.OK:
                failed["lost" if exchange.status is None else str(exchange.status)] += 1
            else:
                latencies_ms.append(round(exchange.latency_ms, 3))
                wrong += not self._target.is_right(exchange.image, exchange.body)
        answered_s = [exchange.answered_s for exchange in self.exchanges if exchange.answered_s]
        skews_ms = [(each.sent_s - each.due_s) * 1e3 for each in self.exchanges]
        return Run(
            elapsed_s=max(answered_s) - self.exchanges[0].due_s
            if answered_s
            else conditions["duration_s"],
            sent=len(self.exchanges),
            latencies_ms=tuple(latencies_ms),
            failed=dict(failed),
            wrong=wrong,
            skew_p99_ms=round(nearest_rank(skews_ms, 99), 3) if skews_ms else 0.0,
            **conditions,
        )


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read an answer with a Content-Length or in chunks; return status and body.

    Raises:
        EOFError: The connection ended before the end of the answer.
        ValueError, asyncio.LimitOverrunError: The answer is malformed.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].lower().split(b"\r\n")
    if not first.startswith(b"http/1."):
        raise ValueError(f"status line is {first[:60]!r}, expected HTTP/1.1")
    status = int(first.split(b" ", 2)[1])
    headers = dict(line.partition(b":")[::2] for line in lines)
    if b"content-length" in headers:
        return status, await reader.readexactly(int(headers[b"content-length"]))
    if headers.get(b"transfer-encoding", b"").strip() != b"chunked":
        raise ValueError("the answer has neither Content-Length nor chunks")
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return status, body


class PreciseSelector(selectors.EpollSelector):
    """A selector that waits to the microsecond; Python rounds epoll(7) up to a millisecond.

    Without it the generator would be up to 1 ms late for every arrival.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the ready files after at most `timeout` seconds; None waits forever."""
        select.select([self.fileno()], [], [], timeout and max(0.0, timeout))
        return super().select(0)


def _run_loop(main: Coroutine[Any, Any, None]) -> float:
    """Run in an event loop without garbage collection; return the processor seconds used."""
    gc.collect()
    gc.disable()
    started_s = time.process_time()
    try:
        with asyncio.Runner(
            loop_factory=lambda: asyncio.SelectorEventLoop(PreciseSelector())
        ) as runner:
            runner.run(main)
    finally:
        gc.enable()
    return time.process_time() - started_s
