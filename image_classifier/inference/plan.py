"""Chooses how serving runs a network: streams, batch sizes, engine (docs/plan.md has the rule)."""

import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from image_classifier.artifact.record import EngineAttempt, ImportRecord, LatencyPoint, Plan

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
GPU_BATCH_SIZES = (*BATCH_SIZES, 64)
GPU_STREAMS = 3
"""Batches in flight on a GPU: one is copied in, one runs, one is copied out."""
MIN_ROUNDS = 5
"""With fewer rounds the sign test cannot tell a difference from chance."""
MAX_ROUNDS = 15
CHANCE = 0.05
"""Significance level of the sign test that compares candidates."""

WORTHWHILE = 1.1
"""A later candidate must be 10 % faster; otherwise the earlier one is kept."""
WORTHWHILE_BATCHING = 1.2
"""Batches of more than one must be 20 % faster: they need two thread pools, and an image waits for
the others of its batch (docs/performance.md has the measurement)."""
SINGLE_STREAM_SAVES_MS = 1.0
"""Least saving, per single image, that justifies a single-stream engine's copy of the weights."""
ENOUGH_PER_CORE = 2_000
"""Images per second and core beyond which a faster engine is no gain: HTTP is slower."""

SMALL_SHARE = 1 / 3
"""Share of the network in the time of an image below which one process cannot use all cores
(docs/plan.md has measurements)."""
MAX_PROCESSES = 4


def api_processes(
    record: ImportRecord, cores: int, *, embedded: bool = True, on_gpu: bool = False
) -> int:
    """Return the number of API processes.

    In the runner topology each core has one; with a GPU half as many, with two decoding threads
    each, since larger calls suit it. Embedded, each process loads the network. Several pay off
    only if Python, which runs one thread at a time, takes most of the time of an image.
    """
    if not embedded:
        return max(1, cores // 2) if on_gpu else cores
    if record.network_share >= SMALL_SHARE:
        return 1
    return min(cores, MAX_PROCESSES)


class RunConfig(NamedTuple):
    """A way to run a network: `streams` concurrent batches of one size, on `threads` threads.

    Attributes:
        captured: On a GPU, all batch sizes that are captured together; empty on the CPU.
    """

    engine: str
    streams: int
    threads: int
    batch_size: int
    captured: tuple[int, ...] = ()


def config_of(engine: str, point: LatencyPoint, curve: Iterable[LatencyPoint]) -> RunConfig:
    """Return the configuration that a point of a curve was measured with."""
    captured = tuple(each.batch_size for each in curve) if point.on_gpu else ()
    return RunConfig(engine, point.streams, point.threads, point.batch_size, captured)


class Sample(NamedTuple):
    """One short measurement of one configuration.

    Attributes:
        images_per_s: Throughput with all streams busy, decoding included.
        batch_ms: Median duration of a batch with all streams busy.
        single_ms: Median duration of a batch while nothing else runs.
    """

    images_per_s: float
    batch_ms: float
    single_ms: float


OpenConfig = Callable[[RunConfig], Callable[[], Sample]]
"""Loads the engine in a configuration; returns a function that samples it."""


def stream_counts(cores: int) -> tuple[int, ...]:
    """Return the numbers of streams to measure: 1, …, a half and all of the cores."""
    counts = {1}
    while cores > 1:
        counts.add(cores)
        cores //= 2
    return tuple(sorted(counts))


def measure_engine(
    engine: str,
    cores: int,
    open_config: OpenConfig,
    *,
    budget_ms: float,
    limit_s: float,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    on_gpu: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[LatencyPoint, ...]:
    """Measure numbers of streams at batch size one, then batch sizes at the best number.

    On a GPU the number of streams is always `GPU_STREAMS`.

    Args:
        cores: Threads of all streams together.
        on_gpu: Whether the network runs on a GPU.
        budget_ms: Target latency of an answer.
        limit_s: Seconds after which nothing more is measured.
        batch_sizes: Ascending, from 1.
    """
    measure = functools.partial(
        measure_in_rounds,
        open_config=functools.cache(open_config),  # both steps measure batch size one
        settled=lambda points: _decide(engine, points, budget_ms)[2],
        budget_ms=budget_ms,
        clock=clock,
    )
    if on_gpu:
        configs = [
            RunConfig(engine, GPU_STREAMS, cores, size, tuple(batch_sizes)) for size in batch_sizes
        ]
        return measure(configs, limit_s=limit_s)
    end = clock() + limit_s
    counts = stream_counts(cores)
    prior = counts[:: -1 if _single_stream_possible(engine) else 1]
    configs = [RunConfig(engine, streams, cores, 1) for streams in prior]
    by_streams = measure(configs, limit_s=limit_s / 2)
    streams = best_point(engine, by_streams, budget_ms).streams
    if len(batch_sizes) == 1:
        return by_streams
    configs = [RunConfig(engine, streams, cores, size) for size in batch_sizes]
    if streams > 1:
        configs.insert(1, RunConfig(engine, 1, cores, 1))  # the single-stream engine
    by_size = measure(configs, limit_s=end - clock())
    latest = {(point.streams, point.batch_size): point for point in (*by_streams, *by_size)}
    return tuple(latest.values())


def measure_in_rounds(
    configs: Sequence[RunConfig],
    open_config: OpenConfig,
    settled: Callable[[Sequence[LatencyPoint]], bool],
    *,
    limit_s: float,
    budget_ms: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[LatencyPoint, ...]:
    """Measure configurations in rounds, alternately forwards and backwards, until settled.

    Other programs disturb all configurations of a round alike, and so hardly change their ratios.

    Args:
        settled: Whether more rounds would change no decision; called after MIN_ROUNDS rounds.
        limit_s: Seconds after which no sample is taken, except one of the first config.
        budget_ms: A batch size is not loaded if a smaller one takes longer than this.

    Returns:
        A point for each measured config, in the order of `configs`.
    """
    end = clock() + limit_s
    samplers: dict[RunConfig, Callable[[], Sample]] = {}
    samples: dict[RunConfig, list[Sample]] = {}

    def points() -> tuple[LatencyPoint, ...]:
        return tuple(itertools.starmap(_point, samples.items()))

    for config in configs:
        too_large = any(
            smaller.batch_size < config.batch_size and taken[0].batch_ms > budget_ms
            for smaller, taken in samples.items()
        )
        if samples and (clock() >= end or too_large):
            break
        samplers[config] = open_config(config)
        samples[config] = [samplers[config]()]
    for rounds in range(1, MAX_ROUNDS):
        if clock() >= end or (rounds >= MIN_ROUNDS and settled(points())):
            break
        for config in list(samples)[:: -1 if rounds % 2 else 1]:
            if clock() < end:
                samples[config].append(samplers[config]())
    return points()


def _point(config: RunConfig, samples: list[Sample]) -> LatencyPoint:
    return LatencyPoint(
        batch_size=config.batch_size,
        streams=config.streams,
        threads=config.threads,
        latency_ms=min(sample.batch_ms for sample in samples),
        on_gpu=bool(config.captured),
        images_per_s=statistics.median(sample.images_per_s for sample in samples),
        images_per_s_by_round=tuple(sample.images_per_s for sample in samples),
        single_ms_by_round=tuple(sample.single_ms for sample in samples),
    )


def best_point(engine: str, points: Iterable[LatencyPoint], budget_ms: float) -> LatencyPoint:
    """Return the point that serving should use; see docs/plan.md."""
    return _decide(engine, points, budget_ms)[0]


def plan_for(engine: str, points: Iterable[LatencyPoint], budget_ms: float) -> Plan:
    """Return the plan of an engine from its measured points.

    On a GPU, where a batch is padded to the next size, the plan has three more sizes between each
    measured one and its double: padding a batch of 17 to 32 would waste half the work.
    """
    points = tuple(points)
    best, single_stream, _ = _decide(engine, points, budget_ms)
    sizes = {point.batch_size for point in points if point.streams == best.streams}
    if best.on_gpu:
        sizes |= {size + size * quarter // 4 for size in sizes for quarter in (1, 2, 3)}
    return Plan(
        engine=engine,
        streams=best.streams,
        threads=best.threads,
        batch_sizes=tuple(sorted(size for size in sizes if size <= best.batch_size)),
        service_time_ms=1e3 / best.images_per_s,
        single_stream=single_stream,
    )


def fastest(points: Sequence[LatencyPoint]) -> tuple[int, bool]:
    """Return the index of the point with the highest throughput, and whether that is settled.

    A later point wins only if it is faster by `WORTHWHILE`, beyond the noise.
    """
    best, settled = _first_unless_beaten(points, _throughputs)
    return points.index(best), settled


def fastest_plan(attempts: Iterable[EngineAttempt], budget_ms: float) -> Plan:
    """Return the plan of the fastest engine that was measured."""
    measured = [
        (attempt, point) for attempt in attempts if (point := compared_point(attempt, budget_ms))
    ]
    index, _ = fastest([point for _, point in measured])
    best, _ = measured[index]
    return plan_for(best.engine, best.curve, budget_ms)


def compared_point(attempt: EngineAttempt, budget_ms: float) -> LatencyPoint | None:
    """Return the point by which an engine is compared with others; None if not measured."""
    if attempt.compared is None and attempt.curve:
        return best_point(attempt.engine, attempt.curve, budget_ms)
    return attempt.compared


def _decide(
    engine: str, points: Iterable[LatencyPoint], budget_ms: float
) -> tuple[LatencyPoint, bool, bool]:
    """Return the best point, whether it has a single-stream engine, and whether that is settled."""
    points = tuple(points)
    if points[0].on_gpu:
        # Throughput grows with the batch size, so the wait of other images is what limits it.
        quick = [point for point in points if min(_singles(point)) <= budget_ms / 2]
        return max(quick or points[:1], key=attrgetter("batch_size")), False, True
    possible = _single_stream_possible(engine)
    singles = [point for point in points if point.batch_size == 1]
    singles.sort(key=attrgetter("streams"), reverse=possible)
    one_stream = [point for point in singles if point.streams == 1]
    if possible:
        several = [point for point in singles if point.streams > 1]
        within = [point for point in several if point.latency_ms <= budget_ms] or several[-1:]
        best, settled = _first_unless_beaten([*within, *one_stream], _throughputs)
    else:
        best, settled = _first_unless_beaten(singles, _throughput_per_latency)
    single_stream = possible and best.streams > 1
    if single_stream and one_stream:
        durations = zip(_singles(best), _singles(one_stream[0]), strict=False)
        low, high = _interval(of_best - of_one for of_best, of_one in durations)
        single_stream = high >= SINGLE_STREAM_SAVES_MS
        settled &= not low < SINGLE_STREAM_SAVES_MS <= high
    larger = [
        point
        for point in sorted(points, key=attrgetter("batch_size"))
        if point.streams == best.streams
        and point.batch_size > 1
        and point.latency_ms <= budget_ms / 2
    ]
    best, sizes_settled = _first_unless_beaten([best, *larger], _throughputs)
    return best, single_stream, settled and sizes_settled


def _single_stream_possible(engine: str) -> bool:
    # Torch has one number of threads per process; a second copy cannot have another.
    return not engine.startswith(("torch", "aotinductor"))


def _first_unless_beaten(
    points: Sequence[LatencyPoint], worth: Callable[[LatencyPoint], Sequence[float]]
) -> tuple[LatencyPoint, bool]:
    """Return the first point or a clearly better later one, and whether every comparison is clear.

    Args:
        worth: Returns the value of a point in each round.
    """
    best, clear = points[0], True
    for point in points[1:]:
        low, high = _interval(
            later / earlier for later, earlier in zip(worth(point), worth(best), strict=False)
        )
        needed = WORTHWHILE_BATCHING if best.batch_size == 1 < point.batch_size else WORTHWHILE
        if low >= needed:
            best = point
        elif high >= needed:
            clear = False
    return best, clear


def _throughputs(point: LatencyPoint) -> list[float]:
    # Records without rounds have a single value.
    enough = float(ENOUGH_PER_CORE * point.threads)
    rounds = point.images_per_s_by_round or (point.images_per_s,) * MIN_ROUNDS
    return [min(images_per_s, enough) for images_per_s in rounds]


def _singles(point: LatencyPoint) -> Sequence[float]:
    return point.single_ms_by_round or (point.latency_ms,) * MIN_ROUNDS


def _throughput_per_latency(point: LatencyPoint) -> list[float]:
    rounds = zip(_throughputs(point), _singles(point), strict=True)
    return [images_per_s / single_ms for images_per_s, single_ms in rounds]


def _interval(values: Iterable[float]) -> tuple[float, float]:
    """Return a lower and an upper bound of the median, each wrong with probability CHANCE.

    They are order statistics, as in the sign test; infinite if there are too few values.
    """
    ordered = sorted(values)
    count = len(ordered)
    chances = itertools.accumulate(math.comb(count, rank) / 2**count for rank in range(count))
    rank = sum(chance <= CHANCE for chance in chances) - 1
    return (ordered[rank], ordered[-1 - rank]) if rank >= 0 else (-math.inf, math.inf)
