"""How fast an engine is, over batch sizes and streams, and the plan that follows from it."""

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
"""A larger batch or more streams must bring 5 % more images a second: less is within the noise
of a measurement this short, and costs latency."""

WORTHWHILE_BATCHING = 1.2
"""Batches of more than one must bring 20 %: they take images through two pools of threads and an
image waits for its neighbours. MobileNetV3-Large on 2 cores: 12 % more by the engine in batches of
two were 4 % over HTTP, and at 40/s a p99 of 49 ms instead of 30 (docs/performance.md)."""

WORTHWHILE_SOLO = 0.8
SOLO_SAVES_MS = 1.0
"""A second copy of the weights, for an image that is alone, must make it at least this much
quicker: its latency is at most 0.8 of the one on a stream, and less by 1 ms."""

ENOUGH_PER_CORE = 2_000
"""Images a second and core beyond which more are no gain: reading, decoding and answering a
request takes longer than this leaves."""


def stream_counts(cores: int) -> tuple[int, ...]:
    """Numbers of streams worth measuring on `cores` cores, ascending: 1, half and all."""
    return tuple(sorted({1, max(1, cores // 2), cores}))


def measure_curve(
    load: LoadEngine, example: Batch, cores: int, *, budget_ms: float, seconds: float
) -> tuple[LatencyPoint, ...]:
    """Measure an engine over numbers of streams and batch sizes.

    Args:
        load: Loads the engine for a plan.
        example: Real inputs, (n, H, W, C); repeated to the batch size.
        cores: Threads of all streams together.
        budget_ms: For one number of streams, larger batches are not tried beyond it.
        seconds: Duration of one point, compilation aside.

    A number of streams is left as soon as a larger batch no longer pays. Batches of one are
    measured again at the end, in the other order, and the quicker time counts: something else
    that runs on the machine for a moment must not decide between streams and threads.
    """
    points: list[LatencyPoint] = []
    for streams in stream_counts(cores):
        best = 0.0
        for batch_size in BATCH_SIZES:
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
        max(point, again[point.streams], key=lambda one: one.images_per_s)
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
    """The point with most images a second whose latency leaves half the budget.

    Half, because a request may have to wait for the batch before its own. Where none does,
    the quickest. Smaller batches win unless larger ones are worthwhile. So do more streams where
    an image that is alone does not pay for them: each decodes and infers beside the others, while
    all cores on one image wait for whichever is decoding another. They may then take the whole
    budget: the last of several images would be answered no sooner in turn.
    """
    more_first = -1 if _can_run_solo(engine) else 1
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
    beside = point.streams > 1 and point.batch_size == 1 and _can_run_solo(engine)
    return point.latency_ms <= (budget_ms if beside else budget_ms / 2)


def plan_for(engine: str, points: Iterable[LatencyPoint], budget_ms: float) -> Plan:
    """How to run one engine, from its curve."""
    points = tuple(points)
    best = best_point(engine, points, budget_ms)
    on_stream_ms = _lone_ms(points, best.streams)
    sizes = {point.batch_size for point in points if point.streams == best.streams}
    return Plan(
        engine=engine,
        streams=best.streams,
        threads=best.threads,
        batch_sizes=tuple(sorted(size for size in sizes if size <= best.batch_size)),
        service_time_ms=1e3 / best.images_per_s,
        single_stream=_can_run_solo(engine)
        and _lone_ms(points, 1)
        <= min(WORTHWHILE_SOLO * on_stream_ms, on_stream_ms - SOLO_SAVES_MS),
    )


def _can_run_solo(engine: str) -> bool:
    # The number of torch's threads is one for the process, so a second copy cannot have another.
    return not engine.startswith("torchscript")


def _lone_ms(points: Iterable[LatencyPoint], streams: int) -> float:
    fitting = (one for one in points if (one.streams, one.batch_size) == (streams, 1))
    return min((one.latency_ms for one in fitting), default=math.inf)


def fastest_plan(plans: Iterable[Plan]) -> Plan:
    """The plan with most images a second; an earlier one wins unless a later is worthwhile."""
    first, *others = plans
    best = first
    for plan in others:
        useful_ms = max(plan.service_time_ms, 1e3 / (ENOUGH_PER_CORE * plan.threads))
        if WORTHWHILE * useful_ms <= best.service_time_ms:
            best = plan
    return best
