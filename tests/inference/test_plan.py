"""Plans of small artificial machines, whose speeds are given as data."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from image_classifier.artifact.record import EngineAttempt, LatencyPoint, Plan
from image_classifier.inference import measurement
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.measurement import opener
from image_classifier.inference.plan import (
    GPU_BATCH_SIZES,
    MAX_ROUNDS,
    MIN_ROUNDS,
    RunConfig,
    Sample,
    api_processes,
    config_of,
    fastest_plan,
    measure_engine,
    plan_for,
    stream_counts,
)
from preprocessing import PreprocessingSpec, SpecPreprocessing
from tests.artifact.builder import RECORD
from tests.inference.fakes import attempt, plan
from tests.preprocessing.files import encoded, noise

Shape = tuple[int, int]
"""Streams, batch size."""


@dataclass
class Machine:
    """Samples configurations by a table, with noise; its clock advances by one second per sample.

    Attributes:
        rates: Images per second; 1 for shapes that are missing.
        single_ms: Milliseconds of a call of one image, by number of streams.
        noise: Largest random deviation of a sample, as a share.
        load: Factor by which other programs slow a sample at a time.
    """

    rates: Mapping[Shape, float]
    single_ms: Mapping[int, float]
    noise: float = 0.0
    load: Callable[[float], float] = lambda _: 1.0
    seed: int = 0
    seconds: float = 0.0
    taken: list[RunConfig] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def open_config(self, config: RunConfig) -> Callable[[], Sample]:
        def sample() -> Sample:
            self.taken.append(config)
            self.seconds += 1
            slowed = self.load(self.seconds) * (1 + self.noise * self._random.uniform(-1, 1))
            rate = self.rates.get((config.streams, config.batch_size), 1.0)
            return Sample(
                images_per_s=rate / slowed,
                batch_ms=config.streams * config.batch_size / rate * 1e3 * slowed,
                single_ms=self.single_ms[config.streams] * slowed,
            )

        return sample

    def plan(self, engine: str = "openvino-fp32", cores: int = 2, *, budget_ms: float = 50) -> Plan:
        return plan_for(engine, self.points(engine, cores, budget_ms=budget_ms), budget_ms)

    def points(
        self, engine: str, cores: int, *, limit_s: float = 10_000, **arguments: Any
    ) -> tuple[LatencyPoint, ...]:
        limits: dict[str, Any] = {"limit_s": limit_s, "clock": lambda: self.seconds}
        return measure_engine(engine, cores, self.open_config, **limits, **arguments)


# ResNet-50 int8 on two AVX2 cores: two streams are a fifth faster, one is best for a single image.
RESNET = {(2, 1): 32.0, (1, 1): 27.0, (2, 2): 31.0, (2, 4): 31.5}
RESNET_MS = {2: 62.0, 1: 36.0}


def shape(plan: Plan) -> tuple[int, tuple[int, ...], bool]:
    return plan.streams, plan.batch_sizes, plan.single_stream


def test_one_stream_wins_if_clearly_faster_and_needs_no_single_stream_engine() -> None:
    plan = Machine({(2, 1): 30.0, (1, 1): 45.0}, RESNET_MS, noise=0.1).plan()

    assert shape(plan) == (1, (1,), False)
    assert plan.service_time_ms == pytest.approx(1e3 / 45, rel=0.1)


@pytest.mark.parametrize(("several_ms", "second_engine"), [(1.9, False), (2.2, True)])
def test_a_single_stream_engine_must_save_a_millisecond(
    several_ms: float, second_engine: bool
) -> None:
    plan = Machine({(2, 1): 900.0, (1, 1): 800.0}, {2: several_ms, 1: 1.0}).plan()

    assert (plan.streams, plan.single_stream) == (2, second_engine)


@pytest.mark.parametrize(
    ("gain", "budget_ms", "sizes"),
    [
        pytest.param(1.18, 400, (1,), id="less-than-a-fifth"),
        pytest.param(1.35, 400, (1, 2, 4), id="a-third"),
        # Two batches of four at 135/s take 59 ms, more than half the budget.
        pytest.param(1.35, 100, (1,), id="a-third-beyond-the-budget"),
    ],
)
def test_batches_must_bring_a_fifth_within_half_the_budget(
    gain: float, budget_ms: float, sizes: tuple[int, ...]
) -> None:
    rates = {(2, 1): 100.0, (1, 1): 90.0, (2, 2): 110.0, (2, 4): 100.0 * gain}

    assert Machine(rates, {2: 20.0, 1: 11.0}).plan(budget_ms=budget_ms).batch_sizes == sizes


def test_torch_takes_one_stream_unless_throughput_outweighs_single_image_latency() -> None:
    rates = {(2, 1): 32.0, (1, 1): 27.0}

    # Twice the latency is worth three times the throughput, but not a fifth more.
    assert shape(Machine(rates, RESNET_MS).plan("torch-fp32")) == (1, (1,), False)
    assert Machine({**rates, (2, 1): 81.0}, RESNET_MS).plan("torch-fp32").streams == 2


def test_on_a_gpu_a_batch_is_as_large_as_half_the_budget_allows() -> None:
    taken: list[RunConfig] = []

    def open_config(config: RunConfig) -> Callable[[], Sample]:
        def sample() -> Sample:
            taken.append(config)
            alone_ms = 4 + 0.45 * config.batch_size  # ViT-L/16 on an H100
            rate = config.batch_size / alone_ms * 1e3
            return Sample(images_per_s=rate, batch_ms=3 * alone_ms, single_ms=alone_ms)

        return sample

    points = measure_engine(
        "torch-bf16",
        16,
        open_config,
        budget_ms=50,
        limit_s=60,
        batch_sizes=GPU_BATCH_SIZES,
        on_gpu=True,
    )

    # A batch of 32 takes 18 ms, one of 64 would take 33: waiting images would miss the budget.
    # A batch is padded to the next size, by a quarter at most.
    captured = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)
    assert shape(plan_for("torch-bf16", points, 50)) == (3, captured, False)
    assert {(config.streams, config.captured) for config in taken} == {(3, GPU_BATCH_SIZES)}
    assert len(taken) == 6 * MIN_ROUNDS
    # Engines are compared in the configuration of their curve, without decoding.
    assert config_of("torch-bf16", points[1], points[:6]) == RunConfig(
        "torch-bf16", 3, 16, 2, (1, 2, 4, 8, 16, 32)
    )


def test_the_budget_limits_the_streams_of_many_cores_but_never_to_one() -> None:
    counts = stream_counts(16)
    assert counts == (1, 2, 4, 8, 16)
    rates = {(streams, 1): 80.0 + streams for streams in counts}
    single_ms = {streams: 12.0 * streams for streams in counts}

    # With all streams busy a call takes 16 / 96/s = 167, 91, 48, 24 and 12 ms.
    assert Machine(rates, single_ms).plan(cores=16, budget_ms=50).streams == 4
    assert Machine(rates, single_ms).plan(cores=16, budget_ms=200).streams == 16
    assert Machine(rates, single_ms).plan(cores=16, budget_ms=5).streams == 2
    assert Machine({(1, 1): 30.0}, {1: 30.0}).plan(cores=1).streams == 1


def busy(seed: int) -> Callable[[float], float]:
    """Return the load of other programs: another factor up to six every forty samples."""
    factors = random.Random(seed)
    changes = [factors.uniform(1, 6) for _ in range(100)]
    return lambda seconds: changes[int(seconds // 40)]


@pytest.mark.parametrize(
    ("rates", "single_ms", "budget_ms", "chosen"),
    [
        pytest.param(RESNET, RESNET_MS, 50, (2, (1,), True), id="resnet"),
        pytest.param(
            {(2, 1): 27.2, (1, 1): 27.0}, RESNET_MS, 50, (2, (1,), True), id="equal-streams"
        ),
        pytest.param(
            {(2, 1): 700.0, (1, 1): 600.0, (2, 2): 1_000.0, (2, 4): 1_400.0, (2, 8): 1_420.0},
            {2: 2.9, 1: 1.7},
            400,
            (2, (1, 2, 4), True),
            id="batches",
        ),
    ],
)
def test_ten_imports_in_a_row_on_a_busy_machine_choose_the_same_plan(
    rates: dict[Shape, float], single_ms: dict[int, float], budget_ms: float, chosen: object
) -> None:
    machines = [
        Machine(rates, single_ms, noise=0.2, load=busy(seed), seed=seed) for seed in range(10)
    ]

    assert {shape(machine.plan(budget_ms=budget_ms)) for machine in machines} == {chosen}


def test_the_measurement_ends_early_if_the_order_is_clear_and_in_time_if_not() -> None:
    clear = Machine(RESNET, RESNET_MS)
    clear.plan()
    unclear = Machine({(2, 1): 30.0, (1, 1): 33.0}, RESNET_MS, noise=0.1)
    unclear.plan()

    assert len(clear.taken) < len(unclear.taken) <= MAX_ROUNDS * (2 + 7)
    # Rounds alternate: forwards, backwards.
    assert [config.streams for config in clear.taken[:4]] == [2, 1, 1, 2]


@pytest.mark.parametrize(
    ("batch_ms", "service_time_ms", "cores", "processes"),
    [
        (1.2, 4.9, 2, 2),  # the digits: 1.2 ms on one of two streams are 0.6 ms per image
        (1.2, 4.9, 16, 4),
        (238, 142, 2, 1),  # ResNet-50
    ],
)
def test_a_small_network_gets_several_api_processes(
    batch_ms: float, service_time_ms: float, cores: int, processes: int
) -> None:
    point = LatencyPoint(
        batch_size=1, streams=2, threads=2, latency_ms=batch_ms, images_per_s=1e3 / service_time_ms
    )
    attempt = EngineAttempt(engine="one", verdict="passed", curve=(point,))
    two_streams = plan(streams=2, threads=2, service_time_ms=service_time_ms)
    record = RECORD.model_copy(update={"plan": two_streams, "attempts": (attempt,)})

    assert api_processes(record, cores) == processes
    unmeasured = record.model_copy(update={"attempts": ()})
    assert api_processes(unmeasured, cores) == 1
    assert api_processes(record, cores, embedded=False) == cores
    assert api_processes(record, cores, embedded=False, on_gpu=True) == cores // 2


def test_a_busy_import_does_not_make_a_network_small() -> None:
    # ResNet-50 in bf16 beside other programs: one round of ten was hardly disturbed.
    point = LatencyPoint(
        batch_size=1,
        streams=2,
        threads=2,
        latency_ms=38.7,
        images_per_s=14.7,
        images_per_s_by_round=(13.9, 16.8, 13.1, 14.1, 17.8, 17.3, 12.8, 14.2, 19.0, 14.7),
    )
    attempt = EngineAttempt(engine="one", verdict="passed", curve=(point,))
    two_streams = plan(streams=2, threads=2, service_time_ms=1e3 / point.images_per_s)
    record = RECORD.model_copy(update={"plan": two_streams, "attempts": (attempt,)})

    assert api_processes(record, 2) == 1


def test_the_prior_order_decides_if_time_is_short() -> None:
    machine = Machine({(2, 1): 30.0, (1, 1): 90.0}, RESNET_MS)

    points = machine.points("openvino-fp32", 2, budget_ms=50, limit_s=4, batch_sizes=(1,))

    assert machine.seconds <= 4
    assert shape(plan_for("openvino-fp32", points, 50)) == (2, (1,), True)


def test_batches_beyond_the_budget_are_not_loaded() -> None:
    machine = Machine(RESNET, RESNET_MS)
    machine.plan(budget_ms=70)

    # Two streams at 31/s answer two batches of two in 129 ms.
    assert {config.batch_size for config in machine.taken} == {1, 2}


def test_records_without_rounds_still_give_a_plan() -> None:
    points = [
        LatencyPoint(batch_size=1, streams=streams, threads=2, latency_ms=ms, images_per_s=rate)
        for streams, ms, rate in [(1, 10, 100), (2, 12, 167)]
    ]

    assert shape(plan_for("openvino-fp32", points, 50)) == (2, (1,), True)


def test_the_first_engine_serves_unless_a_later_one_is_faster_beyond_the_noise() -> None:
    first = attempt("first", 100, 60, 90, 80, 100)
    noisy = attempt("noisy", 130, 90, 80, 110, 90)  # slower than the first in two of five rounds
    faster = attempt("faster", 120, 72, 108, 96, 120)  # by a fifth in each round
    slightly = attempt("slightly faster", 105, 63, 94.5, 84, 105)
    failed = EngineAttempt(engine="failed", verdict="failed")

    assert fastest_plan([failed, first, noisy, slightly], 50).engine == "first"
    assert fastest_plan([first, noisy, faster], 50).engine == "faster"
    # Two cores answer 4,000 images a second at best.
    enough = attempt("enough", *[4_000] * 5)
    assert fastest_plan([enough, attempt("more", *[90_000] * 5)], 50).engine == "enough"


class SlowEngine:
    """Takes 20 ms per batch by its own clock, which replaces `time`; records plans and shapes."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.shapes: set[tuple[int, ...]] = set()
        self._seconds = 0.0

    def load(self, plan: Plan) -> "SlowEngine":
        self.plans.append(plan)
        return self

    def run(self, batch: Batch) -> Logits:
        self.shapes.add((*batch.shape, batch.dtype == np.uint8))
        self._seconds += 0.02
        return np.zeros((len(batch), 1), np.float32)

    def perf_counter(self) -> float:
        return self._seconds


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> SlowEngine:
    engine = SlowEngine()
    monkeypatch.setattr(measurement, "time", engine)
    return engine


CROP = SpecPreprocessing(PreprocessingSpec(crop=4))
INPUTS = np.zeros((3, 4, 4, 3), np.uint8)


def test_a_sample_runs_real_inputs_and_counts_images(engine: SlowEngine) -> None:
    files = [encoded(noise(9, 9), "PNG")]
    open_config = opener(lambda _: engine.load, INPUTS, files, CROP, 0.2)

    sample = open_config(RunConfig("openvino-fp32", 1, 1, 5))()

    (plan,) = engine.plans
    assert (plan.streams, plan.threads, plan.batch_sizes) == (1, 1, (5,))
    assert engine.shapes == {(5, 4, 4, 3, True)}
    assert sample.batch_ms == pytest.approx(20)
    assert sample.single_ms == pytest.approx(20)
    assert sample.images_per_s == pytest.approx(250)  # five images in 20 ms, on one stream


def test_on_a_gpu_all_sizes_share_one_engine_and_nothing_is_decoded(engine: SlowEngine) -> None:
    open_config = opener(lambda _: engine.load, INPUTS, [b"decoding this fails"], CROP, 0.2)

    rates = [open_config(RunConfig("torch-bf16", 1, 16, n, (1, 2)))().images_per_s for n in (1, 2)]

    (plan,) = engine.plans
    assert plan.batch_sizes == (1, 2)
    assert {shape[0] for shape in engine.shapes} == {1, 2}
    assert rates == pytest.approx([50, 100])
