"""The in-process limit: what the machine does with the same engine and files, without a server."""

import argparse
import itertools
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.peers.classifier import Classifier
from benchmarks.peers.steps import Array
from benchmarks.product import EXAMPLE
from benchmarks.record import Limit
from benchmarks.workload import DIGITS, Workload, read_workload
from preprocessing import (
    DecodeLimits,
    PreprocessingSpec,
    Resize,
    SpecPreprocessing,
    load_preprocessing,
    to_input,
)

WARMUP_S = 1.0
SEED = 5


def forward_limit(
    workload: Workload, mix: str, *, batch_size: int, streams: int, duration_s: float
) -> Limit:
    """The network alone, on inputs that are ready, one caller for each stream."""
    classifier = Classifier(workload, streams=streams, threads=workload.threads)
    batch = np.stack(
        [
            classifier.to_input(Path(file).read_bytes())
            for file in itertools.islice(itertools.cycle(workload.mixes[mix]), batch_size)
        ]
    )
    return _measured(
        Limit(
            model=workload.model,
            images=mix,
            engine=workload.precision_hint,
            work="forward",
            preprocessing="none",
            batch_size=batch_size,
            streams=streams,
            threads=workload.threads,
            callers=streams,
            elapsed_s=0,
            images_done=0,
            latencies_ms=(),
        ),
        lambda _: classifier.forward(batch),
        duration_s,
    )


def images_limit(
    workload: Workload,
    mix: str,
    *,
    preprocessing: str,
    callers: int,
    duration_s: float,
    rate_per_s: float | None = None,
) -> Limit:
    """Files to logits: each caller decodes and infers its own images, one at a time.

    The same calls a request needs, with nothing around them; one stream for each caller.

    Args:
        preprocessing: "project" with all its checks, or "pillow", the bare calls of the peers.
        rate_per_s: Of Poisson arrivals, for one caller; None makes calls back to back.
    """
    streams = callers
    classifier = Classifier(workload, streams=streams, threads=workload.threads)
    files = [Path(file).read_bytes() for file in workload.mixes[mix]]
    decode = {"pillow": classifier.to_input, "project": product_preprocessing(workload)}[
        preprocessing
    ]
    return _measured(
        Limit(
            model=workload.model,
            images=mix,
            engine=workload.precision_hint,
            work="images",
            preprocessing=preprocessing,
            batch_size=1,
            streams=streams,
            threads=workload.threads,
            callers=callers,
            rate_per_s=rate_per_s,
            elapsed_s=0,
            images_done=0,
            latencies_ms=(),
        ),
        lambda turn: classifier.forward(decode(files[turn % len(files)])[None]),
        duration_s,
    )


def product_preprocessing(workload: Workload) -> Callable[[bytes], Array]:
    """The project's own preprocessing of the workload, with its checks and limits."""
    limits = DecodeLimits()
    if workload.architecture == DIGITS:
        own = load_preprocessing(EXAMPLE / "preprocessing.py", "DigitsPreprocessing")
        return lambda data: to_input(data, own, limits)
    preprocessing = SpecPreprocessing(
        PreprocessingSpec(
            resize=Resize(size=workload.resize_size),
            crop=workload.crop_size,
            mean=workload.mean,
            std=workload.std,
        )
    )
    return lambda data: to_input(data, preprocessing, limits)


def _measured(limit: Limit, call: Callable[[int], Array], duration_s: float) -> Limit:
    """Call from `limit.callers` threads until the time is up; warmup calls are not counted."""
    latencies: list[list[float]] = [[] for _ in range(limit.callers)]
    turns = itertools.count()
    begin_s = time.perf_counter() + WARMUP_S
    end_s = begin_s + duration_s
    gaps = random.Random(SEED)

    def repeat(own: list[float]) -> None:
        while (started_s := time.perf_counter()) < end_s:
            call(next(turns))
            if started_s >= begin_s:
                own.append(round((time.perf_counter() - started_s) * 1e3, 3))
            if limit.rate_per_s is not None:
                time.sleep(gaps.expovariate(limit.rate_per_s))

    callers = [threading.Thread(target=repeat, args=(own,)) for own in latencies]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    samples = tuple(itertools.chain.from_iterable(latencies))
    return limit.model_copy(
        update={
            "elapsed_s": time.perf_counter() - begin_s,
            "images_done": len(samples) * limit.batch_size,
            "latencies_ms": samples,
        }
    )


def main() -> None:
    """Measure the given configurations and print one JSON record a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", type=Path)
    parser.add_argument("--images", required=True, help="name of the image mix")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--preprocessing", nargs="*", default=["project", "pillow"])
    parser.add_argument("--rate", type=float, help="also one caller at this rate, Poisson")
    given = parser.parse_args()
    workload = read_workload(given.workload)
    if given.rate:
        paced = images_limit(
            workload,
            given.images,
            preprocessing="project",
            callers=1,
            duration_s=given.seconds,
            rate_per_s=given.rate,
        )
        print(paced.model_dump_json(), flush=True)
    for streams in given.streams:
        for batch_size in given.batch_sizes:
            limit = forward_limit(
                workload,
                given.images,
                batch_size=batch_size,
                streams=streams,
                duration_s=given.seconds,
            )
            print(limit.model_dump_json(), flush=True)
        for preprocessing in given.preprocessing:
            limit = images_limit(
                workload,
                given.images,
                preprocessing=preprocessing,
                callers=streams,
                duration_s=given.seconds,
            )
            print(limit.model_dump_json(), flush=True)


if __name__ == "__main__":
    main()
