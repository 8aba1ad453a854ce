"""The in-process limit: what the machine does with the same engine and files, without a server.

`python -m tools.benchmarks.limit WORKLOAD --seconds 8` prints one `Limit` as JSON. It runs in a
process of its own, so that nothing else competes for the interpreter.
"""

import argparse
import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tools.benchmarks.peers.common import Classifier
from tools.benchmarks.session import Limit
from tools.benchmarks.workload import Array, Workload, read_workload
from tools.serving import ROOT

WARMUP_S = 1.0
SEED = 5


def measured_limit(
    workload_path: Path, *, seconds: float, rate_per_s: float | None = None, forward: bool = False
) -> Limit:
    """Measure in another process; see `limit_of`."""
    options = ["--seconds", str(seconds)]
    options += ["--rate", str(rate_per_s)] if rate_per_s else []
    options += ["--forward"] if forward else []
    done = subprocess.run(
        [sys.executable, "-m", "tools.benchmarks.limit", str(workload_path), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120 + 2 * seconds,
    )
    return Limit.model_validate_json(done.stdout)


def limit_of(
    workload: Workload, *, seconds: float, rate_per_s: float | None, forward: bool
) -> Limit:
    """Call the engine from as many threads as it has streams.

    Args:
        rate_per_s: Of Poisson arrivals at one caller, with all threads in one stream: caches and
            cores have cooled down as they have for a request that comes alone. None calls back to
            back from one caller and stream a core.
        forward: Run the network alone, on inputs that are ready.
    """
    streams = 1 if rate_per_s else workload.threads
    classifier = Classifier(workload, streams=streams)
    files = workload.images()
    inputs = [classifier.to_input(data) for data in files] if forward else []

    def call(turn: int) -> Array:
        image = turn % len(files)
        return classifier.forward(
            (inputs[image] if forward else classifier.to_input(files[image]))[None]
        )

    elapsed_s, latencies_ms = _repeated(call, streams, seconds, rate_per_s)
    return Limit(
        work="forward" if forward else "images",
        streams=streams,
        rate_per_s=rate_per_s,
        elapsed_s=elapsed_s,
        latencies_ms=tuple(latencies_ms),
    )


def _repeated(
    call: Callable[[int], Array], callers: int, seconds: float, rate_per_s: float | None
) -> tuple[float, list[float]]:
    """Call until the time is up; return elapsed seconds and latencies after the warmup, in ms."""
    turns, gaps = itertools.count(), random.Random(SEED)
    begin_s = time.perf_counter() + WARMUP_S
    end_s = begin_s + seconds
    latencies_ms: list[float] = []  # list.append is atomic

    def repeat() -> None:
        while (started_s := time.perf_counter()) < end_s:
            call(next(turns))
            if started_s >= begin_s:
                latencies_ms.append(round((time.perf_counter() - started_s) * 1e3, 3))
            if rate_per_s is not None:
                time.sleep(gaps.expovariate(rate_per_s))

    threads = [threading.Thread(target=repeat) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin_s, latencies_ms


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", type=Path)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rate", type=float, help="of Poisson arrivals at one caller")
    parser.add_argument("--forward", action="store_true", help="the network alone")
    given = parser.parse_args()
    limit = limit_of(
        read_workload(given.workload),
        seconds=given.seconds,
        rate_per_s=given.rate,
        forward=given.forward,
    )
    print(limit.model_dump_json())


if __name__ == "__main__":
    main()
