"""MLPerf LoadGen's Server scenario against one server: an independent verdict, unofficial.

LoadGen (PyPI mlcommons-loadgen) draws its own Poisson schedule, takes its own times and writes
its own summary. Its rules for a submission ask for more queries than a run here has.
"""

# mlperf_loadgen is a binary module without types.
# mypy: disable-error-code="import-not-found, import-untyped"

import asyncio
import contextlib
import selectors
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import mlperf_loadgen as loadgen

from benchmarks.exchanges import LOOPBACK, Exchange, Target, is_right
from benchmarks.http_client import ConnectionPool
from benchmarks.record import Verdict

ANSWER_WITHIN_S = 30.0
PERCENTILE = 0.99


class LoadGenClient:
    """Sends what LoadGen issues, from an event loop in a thread of its own."""

    def __init__(self, target: Target, loop: asyncio.AbstractEventLoop) -> None:
        self._target = target
        self._loop = loop
        self._pool: ConnectionPool | None = None
        self.outcomes: Counter[str] = Counter()

    def issue(self, queries: list[loadgen.QuerySample]) -> None:
        """LoadGen's thread: hand the queries to the event loop."""
        for query in queries:
            self._loop.call_soon_threadsafe(self._send, query.id, query.index)

    def _send(self, query: int, image: int) -> None:
        if self._pool is None:
            self._pool = ConnectionPool(LOOPBACK, self._target.port)
        # LoadGen waits for every query: a lost one is completed too, and counted as failed.
        late = self._loop.call_later(ANSWER_WITHIN_S, self._finish, query, "failed")

        def take(status: int, body: bytes) -> None:
            if late.cancelled() or late.when() <= self._loop.time():
                return
            late.cancel()
            exchange = Exchange(image=image, due_s=0, status=status, body=body)
            if status != HTTPStatus.OK:
                self._finish(query, "failed")
            else:
                self._finish(query, "right" if is_right(self._target, exchange) else "wrong")

        self._pool.send(self._target.requests[image], take)

    async def close(self) -> None:
        """Drop the connections."""
        if self._pool:
            await self._pool.close()

    def _finish(self, query: int, outcome: str) -> None:
        self.outcomes[outcome] += 1
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(query, 0, 0)])


def server_scenario(
    target: Target, *, rate_per_s: float, budget_ms: float, duration_s: float
) -> Verdict:
    """Run the scenario once.

    Args:
        target: What to ask.
        rate_per_s: Mean of LoadGen's Poisson arrivals.
        budget_ms: Bound on the 99th percentile.
        duration_s: Shortest duration; LoadGen ends at the latest after three times that.
    """
    with _loop_in_thread() as loop, tempfile.TemporaryDirectory() as folder:
        client = LoadGenClient(target, loop)
        images = len(target.requests)
        library = loadgen.ConstructQSL(images, images, lambda _: None, lambda _: None)
        system = loadgen.ConstructSUT(client.issue, lambda: None)
        try:
            loadgen.StartTestWithLogSettings(
                system, library, _settings(rate_per_s, budget_ms, duration_s), _logs(folder)
            )
        finally:
            asyncio.run_coroutine_threadsafe(client.close(), loop).result()
            loadgen.DestroySUT(system)
            loadgen.DestroyQSL(library)
        summary = read_summary(Path(folder, "mlperf_log_summary.txt").read_text())
    valid = summary.get("Result is") == "VALID"
    return Verdict(
        server=target.server,
        model=target.model,
        images=target.images,
        target_per_s=rate_per_s,
        budget_ms=budget_ms,
        valid=valid and not client.outcomes["failed"] and not client.outcomes["wrong"],
        wrong=client.outcomes["wrong"],
        failed=client.outcomes["failed"],
        summary=summary,
    )


def read_summary(text: str) -> dict[str, str]:
    """The `name : value` lines of LoadGen's summary."""
    pairs = (line.partition(" : ") for line in text.splitlines() if " : " in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _settings(rate_per_s: float, budget_ms: float, duration_s: float) -> loadgen.TestSettings:
    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.Server
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.server_target_qps = rate_per_s
    settings.server_target_latency_ns = int(budget_ms * 1e6)
    settings.server_target_latency_percentile = PERCENTILE
    settings.min_duration_ms = int(duration_s * 1e3)
    settings.max_duration_ms = int(3 * duration_s * 1e3)
    settings.min_query_count = 1
    return settings


def _logs(folder: str) -> loadgen.LogSettings:
    output = loadgen.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = False
    settings = loadgen.LogSettings()
    settings.log_output = output
    settings.enable_trace = False
    return settings


@contextlib.contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    thread = threading.Thread(target=loop.run_forever, name="loadgen client")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
