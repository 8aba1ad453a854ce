"""Decides how serving runs a network: streams, batch sizes, engine (docs/plan.md has the rule)."""

import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from image_classifier.artifact.record import EngineAttempt, ImportRecord, LatencyPoint, Plan

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
GPU_BATCH_SIZES = (*BATCH_SIZES, 64)
GPU_STREAMS = 3
"""Batches in flight on a GPU: one is copied there, one runs, one is copied back."""
MIN_ROUNDS = 5
"""Of fewer rounds chance would too often be taken for a difference."""
MAX_ROUNDS = 15
CHANCE = 0.05
"""Significance level of the sign test that tells candidates apart."""

WORTHWHILE = 1.1
"""A later candidate must be 10 % faster; otherwise the earlier one is kept."""
WORTHWHILE_BATCHING = 1.2
"""Batches of more than one must bring a fifth: they need two thread pools, and an image waits for
the others of its batch (docs/performance.md has the measurement)."""
SINGLE_STREAM_SAVES_MS = 1.0
"""What a single-stream engine, a second copy of the weights, must save a single image."""
ENOUGH_PER_CORE = 2_000
"""Images per second and core beyond which a faster engine is no gain: receiving and answering a
request takes longer."""


SMALL_SHARE = 1 / 3
"""Share of the network in the time of an image below which one process cannot use all cores: the
digits have 0.12, ResNet-50 has 0.84. With two processes on two cores the digits are answered 1.7
times as often, ResNet-50 int8 1.05 times."""
MAX_PROCESSES = 4


def api_processes(
    record: ImportRecord | None, cores: int, *, embedded: bool = True, on_gpu: bool = False
) -> int:
    """Return how many processes should answer requests.

    Beside a process of the network each core has one. Beside a GPU half as many, with two threads
    that decode: their calls are fewer and carry more images. Embedded, each process has a network
    of its own, and it depends.

    Of one process, Python runs one thread at a time; networks and decoders run beside it, but
    HTTP does not, nor does a preprocessing written in Python. Where the network takes most of the
    time, more processes would only hold its weights more often.
    """
    if not embedded:
        return max(1, cores // 2) if on_gpu else cores
    if record is None or record.network_time_ms >= SMALL_SHARE * record.plan.service_time_ms:
        return 1
    return min(cores, MAX_PROCESSES)


class RunConfig(NamedTuple):
    """How a network runs: `streams` batches of one size at a time, on `threads` threads.

    Attributes:
        captured: On a GPU, all batch sizes that are captured together; on the processor none.
    """

    engine: str
    streams: int
    threads: int
    batch_size: int
    captured: tuple[int, ...] = ()


def config_of(engine: str, point: LatencyPoint, curve: Iterable[LatencyPoint]) -> RunConfig:
    """Return the configuration of a point of a curve, to measure it again as it was measured."""
    captured = tuple(each.batch_size for each in curve) if point.on_gpu else ()
    return RunConfig(engine, point.streams, point.threads, point.batch_size, captured)


class Sample(NamedTuple):
    """One short measurement of one configuration.

    Attributes:
        images_per_s: Images per second with all streams busy, decoding included.
        batch_ms: Median duration of one batch meanwhile, in milliseconds.
        single_ms: Median duration of one batch while nothing else runs.
    """

    images_per_s: float
    batch_ms: float
    single_ms: float


OpenConfig = Callable[[RunConfig], Callable[[], Sample]]
"""Loads the engine in one configuration; returns a function that samples it."""


def stream_counts(cores: int) -> tuple[int, ...]:
    """Return the numbers of streams to measure on `cores` cores, ascending: all, half, …, 1."""
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
    """Measure numbers of streams at batch size one, then batch sizes at the number chosen.

    On a GPU the streams are batches in flight, always `GPU_STREAMS`.

    Args:
        cores: Threads of all streams together.
        on_gpu: The network runs on a GPU, whatever the cores.
        budget_ms: Latency of an answer.
        limit_s: Seconds after which nothing more is measured.
        batch_sizes: Ascending, from 1.
    """

    def settled(points: Sequence[LatencyPoint]) -> bool:
        return _decide(engine, points, budget_ms)[2]

    open_config = functools.cache(open_config)  # two parts measure batch size one
    measure = functools.partial(
        measure_in_rounds,
        open_config=open_config,
        settled=settled,
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
        configs.insert(1, RunConfig(engine, 1, cores, 1))  # what a single-stream engine would do
    by_size = measure(configs, limit_s=end - clock())
    again = {(point.streams, point.batch_size) for point in by_size}
    kept = (point for point in by_streams if (point.streams, point.batch_size) not in again)
    return (*kept, *by_size)


def measure_in_rounds(
    configs: Sequence[RunConfig],
    open_config: OpenConfig,
    settled: Callable[[Sequence[LatencyPoint]], bool],
    *,
    limit_s: float,
    budget_ms: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[LatencyPoint, ...]:
    """Measure configurations in turn, forwards and backwards, until their order is settled.

    What else the machine does meanwhile disturbs all of them alike, and a ratio within one round is
    hardly disturbed at all.

    Args:
        settled: Whether more rounds would change no decision; asked from round MIN_ROUNDS on.
        limit_s: Seconds after which no sample is taken, except one of the first config.
        budget_ms: A batch that takes longer is the largest tried.

    Returns:
        A point for each config that was measured, in the order of `configs`.
    """
    end = clock() + limit_s
    take: dict[RunConfig, Callable[[], Sample]] = {}
    samples: dict[RunConfig, list[Sample]] = {config: [] for config in configs}
    for number in range(MAX_ROUNDS):
        if number == 0:
            for config in configs:
                if take and (clock() >= end or _beyond(budget_ms, config, samples)):
                    break
                take[config] = open_config(config)
                samples[config].append(take[config]())
        else:
            for config in list(take)[:: -1 if number % 2 else 1]:
                if clock() < end:
                    samples[config].append(take[config]())
        points = tuple(_point(config, samples[config]) for config in take)
        if clock() >= end or (number + 1 >= MIN_ROUNDS and settled(points)):
            break
    return points


def _beyond(budget_ms: float, config: RunConfig, samples: dict[RunConfig, list[Sample]]) -> bool:
    return any(
        taken and smaller.batch_size < config.batch_size and taken[0].batch_ms > budget_ms
        for smaller, taken in samples.items()
    )


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
    """Return the point that serving should run: see docs/plan.md."""
    return _decide(engine, points, budget_ms)[0]


def plan_for(engine: str, points: Iterable[LatencyPoint], budget_ms: float) -> Plan:
    """Return the plan of one engine, from its measured points.

    On a GPU, where a batch is padded to the next size, there are three sizes more between each
    measured one and its double: of a batch of 17 in the place of 32, half the work is in vain.
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
    """Return the index of the point with most images per second, and whether that is settled.

    An earlier one is returned unless a later one is faster beyond the noise and by `WORTHWHILE`.
    """
    best, settled = _first_unless_beaten(points, _throughputs)
    return points.index(best), settled


def fastest_plan(attempts: Iterable[EngineAttempt], budget_ms: float) -> Plan:
    """Return the plan of the fastest engine that was measured."""
    measured = [attempt for attempt in attempts if attempt.curve]
    index, _ = fastest(
        [
            attempt.compared or best_point(attempt.engine, attempt.curve, budget_ms)
            for attempt in measured
        ]
    )
    return plan_for(measured[index].engine, measured[index].curve, budget_ms)


def _decide(
    engine: str, points: Iterable[LatencyPoint], budget_ms: float
) -> tuple[LatencyPoint, bool, bool]:
    """Return the best point, whether it has a single-stream engine, and whether that is settled."""
    points = tuple(points)
    if points[0].on_gpu:
        # The larger a batch, the more images a second; what bounds it is how long others wait.
        quick = [point for point in points if min(_singles(point)) <= budget_ms / 2]
        return max(quick or points[:1], key=lambda point: point.batch_size), False, True
    possible = _single_stream_possible(engine)
    singles = sorted(
        (point for point in points if point.batch_size == 1),
        key=lambda point: -point.streams if possible else point.streams,
    )
    one = [point for point in singles if point.streams == 1]
    if possible:
        several = [point for point in singles if point.streams > 1]
        within = [point for point in several if point.latency_ms <= budget_ms] or several[-1:]
        best, settled = _first_unless_beaten([*within, *one], _throughputs)
    else:
        best, settled = _first_unless_beaten(singles, _both_ends)
    single_stream = possible and best.streams > 1
    if single_stream and one:
        low, high = _interval(
            shared - alone for shared, alone in zip(_singles(best), _singles(one[0]), strict=False)
        )
        single_stream = high >= SINGLE_STREAM_SAVES_MS
        settled &= not low < SINGLE_STREAM_SAVES_MS <= high
    larger = sorted(
        (
            point
            for point in points
            if point.streams == best.streams
            and point.batch_size > 1
            and point.latency_ms <= budget_ms / 2
        ),
        key=lambda point: point.batch_size,
    )
    best, sizes_settled = _first_unless_beaten([best, *larger], _throughputs)
    return best, single_stream, settled and sizes_settled


def _single_stream_possible(engine: str) -> bool:
    # Torch has one number of threads per process; a second copy cannot have another.
    return not engine.startswith("torch")


def _first_unless_beaten(
    points: Sequence[LatencyPoint], worth: Callable[[LatencyPoint], Sequence[float]]
) -> tuple[LatencyPoint, bool]:
    """Return the first point, or a later one that is worth clearly more; whether all is clear."""
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
    # Where no rounds were recorded, the one value is taken as it is.
    enough = float(ENOUGH_PER_CORE * point.threads)
    rounds = point.images_per_s_by_round or (point.images_per_s,) * MIN_ROUNDS
    return [min(images_per_s, enough) for images_per_s in rounds]


def _singles(point: LatencyPoint) -> Sequence[float]:
    return point.single_ms_by_round or (point.latency_ms,) * MIN_ROUNDS


def _both_ends(point: LatencyPoint) -> list[float]:
    """Images per second at full load, divided by the latency of a single image."""
    return [rate / alone for rate, alone in zip(_throughputs(point), _singles(point), strict=True)]


def _interval(values: Iterable[float]) -> tuple[float, float]:
    """Return bounds that the true median is below, or above, with a chance of CHANCE at most.

    They are order statistics, as in the sign test. Of too few values nothing is known.
    """
    ordered = sorted(values)
    count = len(ordered)
    chances = itertools.accumulate(math.comb(count, rank) / 2**count for rank in range(count))
    rank = sum(chance <= CHANCE for chance in chances) - 1
    return (ordered[rank], ordered[-1 - rank]) if rank >= 0 else (-math.inf, math.inf)
