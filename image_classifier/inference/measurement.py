"""Measures how fast a network runs in a configuration, with decoding on the same cores."""

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
from image_classifier.inference.plan import OpenConfig, RunConfig, Sample
from preprocessing import DecodeLimits, Preprocessing, to_input


def opener(
    load: Callable[[str], LoadEngine],
    inputs: Batch,
    files: Sequence[bytes],
    preprocessing: Preprocessing,
    seconds: float,
) -> OpenConfig:
    """Return a function that loads an engine in a configuration, to sample it.

    On a GPU the network is measured without decoding, which other processes do, and all batch
    sizes share one engine, since capturing takes longer than measuring.

    Args:
        load: Opens an engine by its name.
        inputs: Real inputs, (n, H, W, C); repeated to the batch size.
        files: Image files to decode while the network runs.
        seconds: Duration of one sample, without compilation.
    """
    cycled = itertools.cycle(files)

    def decode() -> None:
        to_input(next(cycled), preprocessing, DecodeLimits())

    def loaded(config: RunConfig) -> Engine:
        plan = Plan(
            engine=config.engine,
            streams=config.streams,
            threads=config.threads,
            batch_sizes=config.captured or (config.batch_size,),
            service_time_ms=1,
        )
        return load(config.engine)(plan)

    captured = functools.cache(loaded)

    def open_config(config: RunConfig) -> Callable[[], Sample]:
        engine = captured(config._replace(batch_size=1)) if config.captured else loaded(config)
        batch = np.resize(inputs, (config.batch_size, *inputs.shape[1:])).astype(inputs.dtype)
        engine.run(batch)
        return lambda: _sample(engine, batch, config, decode, seconds)

    return open_config


def _sample(
    engine: Engine, batch: Batch, config: RunConfig, decode: Callable[[], None], seconds: float
) -> Sample:
    singles = _durations(lambda: engine.run(batch), seconds / 4)
    streams = threading.Semaphore(config.streams)
    busy: list[float] = []
    end = time.perf_counter() + seconds

    def client(_: int) -> int:
        count = 0
        while not count or time.perf_counter() < end:
            for _ in range(0 if config.captured else config.batch_size):
                decode()
            with streams:
                busy.extend(_durations(lambda: engine.run(batch), 0))
            count += config.batch_size
        return count

    # As in serving: a thread per core decodes and runs single images; for batches, one further
    # thread per stream runs the network.
    threads = 0 if config.captured else config.threads
    if config.captured or config.batch_size > 1:
        threads += config.streams
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        images = sum(pool.map(client, range(threads)))
    return Sample(
        images_per_s=images / (time.perf_counter() - started),
        batch_ms=statistics.median(busy) * 1e3,
        single_ms=statistics.median(singles) * 1e3,
    )


def _durations(call: Callable[[], object], seconds: float) -> list[float]:
    """Call repeatedly, at least once, for `seconds`; return the seconds of each call."""
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while not durations or time.perf_counter() < end:
        begun = time.perf_counter()
        call()
        durations.append(time.perf_counter() - begun)
    return durations
