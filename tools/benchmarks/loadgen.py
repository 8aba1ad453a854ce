"""MLPerf LoadGen's Server scenario against one server: an independent verdict, unofficial.

LoadGen (PyPI mlcommons-loadgen) draws its own Poisson schedule, takes its own times and writes its
own summary. Its rules for a submission ask for more queries than a run here has. Run by
`measure.Client.loadgen` in the benchmark's own environment.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

import asyncio
import contextlib
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import mlperf_loadgen as loadgen

from tools.benchmarks.measure import target_of
from tools.benchmarks.servers import SERVERS
from tools.benchmarks.session import Verdict
from tools.benchmarks.workload import read_workload
from tools.load import NO_ANSWER, Connections, Target

ANSWER_WITHIN_S = 30.0


class LoadGenClient:
    """Sends what LoadGen issues, from an event loop in a thread of its own."""

    def __init__(self, target: Target, loop: asyncio.AbstractEventLoop) -> None:
        self._target = target
        self._loop = loop
        self._connections = Connections(target.port)
        self.outcomes: Counter[str] = Counter()

    def issue(self, queries: list[loadgen.QuerySample]) -> None:
        """Hand the queries of LoadGen's thread to the event loop."""
        for query in queries:
            asyncio.run_coroutine_threadsafe(self._answer(query.id, query.index), self._loop)

    async def _answer(self, query: int, image: int) -> None:
        outcome = "failed"
        with contextlib.suppress(*NO_ANSWER):
            async with asyncio.timeout(ANSWER_WITHIN_S):
                status, body = await self._connections.ask(self._target.requests[image])
            if status == HTTPStatus.OK:
                outcome = "right" if self._target.is_right(image, body) else "wrong"
        self.outcomes[outcome] += 1
        # LoadGen waits for every query: a lost one is completed too, and counted as failed.
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(query, 0, 0)])


def server_scenario(
    target: Target, *, rate_per_s: float, budget_ms: float, seconds: float
) -> Verdict:
    """Run the scenario once.

    Args:
        rate_per_s: Mean of LoadGen's Poisson arrivals.
        budget_ms: Bound on the 99th percentile.
        seconds: Shortest duration; LoadGen ends after three times that at the latest.
    """
    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.Server
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.server_target_qps = rate_per_s
    settings.server_target_latency_ns = int(budget_ms * 1e6)
    settings.server_target_latency_percentile = 0.99
    settings.min_duration_ms = int(seconds * 1e3)
    settings.max_duration_ms = int(3 * seconds * 1e3)
    settings.min_query_count = 1
    output = loadgen.LogOutputSettings()
    output.copy_summary_to_stdout = False
    logs = loadgen.LogSettings()
    logs.enable_trace = False
    with _loop_in_thread() as loop, tempfile.TemporaryDirectory() as folder:
        output.outdir = folder
        logs.log_output = output
        client = LoadGenClient(target, loop)
        images = len(target.requests)
        library = loadgen.ConstructQSL(images, images, lambda _: None, lambda _: None)
        system = loadgen.ConstructSUT(client.issue, lambda: None)
        try:
            loadgen.StartTestWithLogSettings(system, library, settings, logs)
        finally:
            loadgen.DestroySUT(system)
            loadgen.DestroyQSL(library)
        summary = read_summary(Path(folder, "mlperf_log_summary.txt").read_text())
    failed, wrong = client.outcomes["failed"], client.outcomes["wrong"]
    return Verdict(
        rate_per_s=rate_per_s,
        budget_ms=budget_ms,
        valid=summary.get("Result is") == "VALID" and not failed and not wrong,
        wrong=wrong,
        failed=failed,
        summary=summary,
    )


def read_summary(text: str) -> dict[str, str]:
    """Return the `name : value` lines of LoadGen's summary."""
    pairs = (line.partition(" : ") for line in text.splitlines() if " : " in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


@contextlib.contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="loadgen client")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def main(workload: str, port: str, *numbers: str) -> None:
    """Print the verdict on this project as JSON."""
    target = target_of(SERVERS[0], read_workload(Path(workload)), int(port))
    rate_per_s, budget_ms, seconds = map(float, numbers)
    verdict = server_scenario(target, rate_per_s=rate_per_s, budget_ms=budget_ms, seconds=seconds)
    print(verdict.model_dump_json())


if __name__ == "__main__":
    main(*sys.argv[1:])
