"""Takes samples of ways to run a network, with decoding on the same cores."""

import functools
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from image_classifier.artifact.record import Plan
from image_classifier.inference.engine import Batch, Engine, LoadEngine
from image_classifier.inference.plan import OpenWay, Sample, Way
from preprocessing import DecodeLimits, Preprocessing, to_input


def opener(
    load: Callable[[str], LoadEngine],
    inputs: Batch,
    files: Sequence[bytes],
    preprocessing: Preprocessing,
    seconds: float,
) -> OpenWay:
    """Return what loads the engine of a way and samples it.

    On a GPU the network is measured alone, since other processes decode, and all sizes share one
    engine: capturing takes longer than measuring.

    Args:
        load: Opens an engine by its name.
        inputs: Real inputs, (n, H, W, C); repeated to the batch size.
        files: Image files, decoded in turn beside the network.
        seconds: Duration of one sample, without compilation.
    """
    endless = itertools.cycle(files)

    def decode() -> None:
        to_input(next(endless), preprocessing, DecodeLimits())

    def loaded(way: Way) -> Engine:
        plan = Plan(
            engine=way.engine,
            streams=way.streams,
            threads=way.threads,
            batch_sizes=way.captured or (way.batch_size,),
            service_time_ms=1,
        )
        return load(way.engine)(plan)

    captured = functools.cache(loaded)

    def open_way(way: Way) -> Callable[[], Sample]:
        engine = captured(way._replace(batch_size=1)) if way.captured else loaded(way)
        batch = np.resize(inputs, (way.batch_size, *inputs.shape[1:])).astype(inputs.dtype)
        engine.run(batch)
        return lambda: _sample(engine, batch, way, decode, seconds)

    return open_way


def _sample(
    engine: Engine, batch: Batch, way: Way, decode: Callable[[], None], seconds: float
) -> Sample:
    alone = _durations(lambda: engine.run(batch), seconds / 4)
    streams = threading.Semaphore(way.streams)
    busy: list[float] = []
    end = time.perf_counter() + seconds

    def client(_: int) -> int:
        count = 0
        while not count or time.perf_counter() < end:
            for _ in range(0 if way.captured else way.batch_size):
                decode()
            with streams:
                busy.extend(_durations(lambda: engine.run(batch), 0))
            count += way.batch_size
        return count

    # As serving: a thread a core, which decodes and runs one image; for batches those that run
    # them are beside those that decode.
    threads = 0 if way.captured else way.threads
    if way.captured or way.batch_size > 1:
        threads += way.streams
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        images = sum(pool.map(client, range(threads)))
    return Sample(
        images_per_s=images / (time.perf_counter() - started),
        batch_ms=statistics.median(busy) * 1e3,
        single_ms=statistics.median(alone) * 1e3,
    )


def _durations(call: Callable[[], object], seconds: float) -> list[float]:
    """Call at least once, until `seconds` have passed; return the seconds of each call."""
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while not durations or time.perf_counter() < end:
        begun = time.perf_counter()
        call()
        durations.append(time.perf_counter() - begun)
    return durations
