"""The limit of the machine: the same engine and files in one process, without a server."""

import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tools.benchmarks.peers.common import Classifier
from tools.benchmarks.servers import OWN_PYTHON
from tools.benchmarks.session import Limit
from tools.benchmarks.workload import Array, Workload, read_workload
from tools.serving import ROOT

WARMUP_S = 1.0
SEED = 5


def measured_limit(
    workload_path: Path, *, seconds: float, rate_per_s: float | None = None, forward: bool = False
) -> Limit:
    """Call `limit_of` in a process of its own, with the Python of this project's server."""
    arguments = json.dumps([str(workload_path), seconds, rate_per_s, forward])
    command = [str(OWN_PYTHON), "-m", "tools.benchmarks.limit", arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return Limit.model_validate_json(done.stdout)


def limit_of(workload: Workload, seconds: float, rate_per_s: float | None, forward: bool) -> Limit:
    """Call the engine from as many threads as it has streams.

    Args:
        rate_per_s: Rate of Poisson arrivals at a single caller and stream with all threads. Between
            arrivals, caches and cores cool down as between real requests. None calls back to
            back, with one caller and stream per core.
        forward: Run the network only, on preprocessed inputs.
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


if __name__ == "__main__":
    path, *options = json.loads(sys.argv[1])
    print(limit_of(read_workload(Path(path)), *options).model_dump_json())
