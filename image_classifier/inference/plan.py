"""Measures an engine over batch sizes and streams and derives its plan."""

import math
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from image_classifier.artifact.record import LatencyPoint, Plan
from image_classifier.inference.engine import Batch, LoadEngine

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
WORTHWHILE = 1.05
"""A larger batch or more streams must bring 5 % more images per second: less is within the noise
of so short a measurement and costs latency."""

WORTHWHILE_BATCHING = 1.2
"""Batches of more than one must bring 20 %: they need two thread pools, and an image waits for the
others of its batch (docs/performance.md has the measurement)."""

SINGLE_STREAM_LATENCY = 0.8
SINGLE_STREAM_SAVES_MS = 1.0
"""A single-stream engine, a second copy of the weights, must reduce the latency of a single image
to at most 0.8 of that on one of several streams, and by at least 1 ms."""

ENOUGH_PER_CORE = 2_000
"""Images per second and core beyond which a faster engine is no gain: reading, decoding and
answering a request takes longer than the engine."""


def stream_counts(cores: int) -> tuple[int, ...]:
    """Return the numbers of streams to measure on `cores` cores, ascending: 1, half and all."""
    return tuple(sorted({1, max(1, cores // 2), cores}))


def measure_curve(
    load: LoadEngine,
    example: Batch,
    cores: int,
    *,
    budget_ms: float,
    seconds: float,
    takes_batches: bool = True,
) -> tuple[LatencyPoint, ...]:
    """Measure an engine over numbers of streams and batch sizes.

    Args:
        load: Loads the engine for a plan.
        example: Real inputs, (n, H, W, C); repeated to the batch size.
        cores: Threads of all streams together.
        budget_ms: A batch that takes longer is the largest tried for its number of streams.
        seconds: Duration of one point, without compilation.
        takes_batches: False measures batches of one only.

    Larger batches are tried as long as they bring more images per second. Batches of one are
    measured again at the end, in reverse order, and the better result counts, so that a short
    disturbance does not decide between streams and threads.
    """
    points: list[LatencyPoint] = []
    for streams in stream_counts(cores):
        best = 0.0
        for batch_size in BATCH_SIZES if takes_batches else BATCH_SIZES[:1]:
            point = _measure_point(load, example, (streams, cores, batch_size), seconds)
            points.append(point)
            if point.images_per_s < WORTHWHILE * best or point.latency_ms > budget_ms:
                break
            best = point.images_per_s
    again = {
        streams: _measure_point(load, example, (streams, cores, 1), seconds)
        for streams in reversed(stream_counts(cores))
    }
    return tuple(
        max(point, again[point.streams], key=lambda candidate: candidate.images_per_s)
        if point.batch_size == 1
        else point
        for point in points
    )


def _measure_point(
    load: LoadEngine, example: Batch, shape: tuple[int, int, int], seconds: float
) -> LatencyPoint:
    streams, threads, batch_size = shape
    plan = Plan(
        engine="measured",
        streams=streams,
        threads=threads,
        batch_sizes=(batch_size,),
        service_time_ms=1,
    )
    engine = load(plan)
    batch = np.resize(example, (batch_size, *example.shape[1:])).astype(example.dtype)
    engine.run(batch)
    started = time.perf_counter()

    def stream(_: int) -> list[float]:
        durations: list[float] = []
        while not durations or time.perf_counter() - started < seconds:
            begin = time.perf_counter()
            engine.run(batch)
            durations.append(time.perf_counter() - begin)
        return durations

    with ThreadPoolExecutor(streams) as pool:
        durations = [value for part in pool.map(stream, range(streams)) for value in part]
    elapsed = time.perf_counter() - started
    return LatencyPoint(
        batch_size=batch_size,
        streams=streams,
        threads=threads,
        latency_ms=statistics.median(durations) * 1e3,
        images_per_s=len(durations) * batch_size / elapsed,
    )


def best_point(engine: str, points: Iterable[LatencyPoint], budget_ms: float) -> LatencyPoint:
    """Return the point with most images per second that fits the budget.

    A batch fits if it takes at most half the budget, since a request may have to wait for the
    batch before its own. If none fits, the quickest point is returned. Smaller batches are
    preferred unless larger ones bring `WORTHWHILE` more. More streams are preferred where a
    single-stream engine can serve single images: streams decode and infer beside each other,
    while one stream of all threads waits for cores that decode. Batches of one on several streams
    may take the whole budget: one after the other, the images would be answered no sooner.
    """
    more_first = -1 if _single_stream_possible(engine) else 1
    ordered = sorted(points, key=lambda point: (point.batch_size, more_first * point.streams))
    fitting = [point for point in ordered if _fits(engine, point, budget_ms)]
    if not fitting:
        return min(ordered, key=lambda point: point.latency_ms)
    best = fitting[0]
    for point in fitting[1:]:
        useful = min(point.images_per_s, ENOUGH_PER_CORE * point.threads)
        batching = best.batch_size == 1 < point.batch_size
        needed = WORTHWHILE_BATCHING if batching else WORTHWHILE
        if useful >= needed * best.images_per_s:
            best = point
    return best


def _fits(engine: str, point: LatencyPoint, budget_ms: float) -> bool:
    parallel = point.streams > 1 and point.batch_size == 1 and _single_stream_possible(engine)
    return point.latency_ms <= (budget_ms if parallel else budget_ms / 2)


def plan_for(engine: str, points: Iterable[LatencyPoint], budget_ms: float) -> Plan:
    """Return the plan of one engine, from its measured points."""
    points = tuple(points)
    best = best_point(engine, points, budget_ms)
    on_one_of_several_ms = _single_image_ms(points, best.streams)
    sizes = {point.batch_size for point in points if point.streams == best.streams}
    return Plan(
        engine=engine,
        streams=best.streams,
        threads=best.threads,
        batch_sizes=tuple(sorted(size for size in sizes if size <= best.batch_size)),
        service_time_ms=1e3 / best.images_per_s,
        single_stream=_single_stream_possible(engine)
        and _single_image_ms(points, 1)
        <= min(
            SINGLE_STREAM_LATENCY * on_one_of_several_ms,
            on_one_of_several_ms - SINGLE_STREAM_SAVES_MS,
        ),
    )


def _single_stream_possible(engine: str) -> bool:
    # Torch has one number of threads per process; a second copy cannot have another.
    return not engine.startswith("torchscript")


def _single_image_ms(points: Iterable[LatencyPoint], streams: int) -> float:
    latencies = (
        point.latency_ms for point in points if (point.streams, point.batch_size) == (streams, 1)
    )
    return min(latencies, default=math.inf)


def fastest_plan(plans: Iterable[Plan]) -> Plan:
    """Return the plan with most images per second; a later one must be faster by `WORTHWHILE`."""
    first, *others = plans
    best = first
    for plan in others:
        useful_ms = max(plan.service_time_ms, 1e3 / (ENOUGH_PER_CORE * plan.threads))
        if WORTHWHILE * useful_ms <= best.service_time_ms:
            best = plan
    return best
