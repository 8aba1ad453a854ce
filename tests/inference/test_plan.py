"""Plans from latency curves drawn by hand."""

import threading

import numpy as np
import pytest

from image_classifier.artifact.record import LatencyPoint, Plan
from image_classifier.inference import plan as planning
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.plan import (
    best_point,
    fastest_plan,
    measure_curve,
    plan_for,
    stream_counts,
)


def point(
    batch_size: int, latency_ms: float, *, streams: int = 1, threads: int = 2
) -> LatencyPoint:
    """A point whose throughput follows from its latency: streams × batch / latency."""
    return LatencyPoint(
        batch_size=batch_size,
        streams=streams,
        threads=threads,
        latency_ms=latency_ms,
        images_per_s=streams * batch_size / latency_ms * 1e3,
    )


def plan(engine: str, service_time_ms: float, *, threads: int = 2) -> Plan:
    return Plan(
        engine=engine, streams=1, threads=threads, batch_sizes=(1,), service_time_ms=service_time_ms
    )


@pytest.mark.parametrize(("cores", "counts"), [(1, (1,)), (2, (1, 2)), (3, (1, 3)), (8, (1, 4, 8))])
def test_one_half_and_all_cores_are_tried_as_streams(cores: int, counts: tuple[int, ...]) -> None:
    assert stream_counts(cores) == counts


# 100/s, 133/s, 160/s, 178/s.
RISING = [point(1, 10), point(2, 15), point(4, 25), point(8, 45)]
# 100/s, then 118/s, 130/s and 138/s in batches.
BATCHES = [point(1, 10), point(2, 17), point(4, 30.7), point(8, 58)]
# 45/s and 50/s; one stream answers two images after 22 and 44 ms, two streams both after 40.
STREAMS = [point(1, 22), point(1, 40, streams=2)]
# 100/s three times.
EQUAL = [point(1, 10), point(2, 20), point(1, 20, streams=2)]


@pytest.mark.parametrize(
    ("engine", "curve", "budget_ms", "best"),
    [
        pytest.param("openvino-fp32", RISING, 50, 2, id="most-images-within-half-the-budget"),
        pytest.param("openvino-fp32", RISING, 49, 1, id="less-budget"),
        pytest.param("openvino-fp32", RISING, 90, 3, id="more-budget"),
        pytest.param(  # 104/s
            "openvino-fp32", [point(1, 10), point(2, 19.2)], 50, 0, id="a-batch-hardly-faster"
        ),
        pytest.param("openvino-fp32", BATCHES[:2], 100, 0, id="a-batch-of-two-must-bring-a-fifth"),
        pytest.param("openvino-fp32", BATCHES[:3], 100, 2, id="a-batch-that-brings-30-percent"),
        pytest.param("openvino-fp32", BATCHES, 200, 3, id="from-batch-to-batch-5-percent-do"),
        pytest.param("openvino-fp32", STREAMS, 50, 1, id="streams-may-take-the-whole-budget"),
        pytest.param("openvino-fp32", STREAMS, 39, 0, id="streams-beyond-the-budget"),
        pytest.param("torchscript-fp32", STREAMS, 50, 0, id="no-single-stream-engine-in-torch"),
        pytest.param(  # 100/s and 167/s
            "openvino-fp32", [point(1, 10), point(1, 12, streams=2)], 50, 1, id="faster-streams"
        ),
        pytest.param("openvino-fp32", EQUAL, 50, 2, id="more-streams-and-smaller-batches-if-equal"),
        pytest.param("torchscript-fp32", EQUAL, 50, 0, id="fewer-streams-in-torch-if-equal"),
        pytest.param(
            "openvino-fp32",
            [point(1, 80), point(2, 120), point(1, 70, streams=2)],
            50,
            2,
            id="the-quickest-where-none-fits-the-budget",
        ),
        pytest.param(  # 3,000/s and 10,000/s, of which 2,000/s can be decoded
            "openvino-fp32",
            [point(1, 1 / 3, threads=1), point(4, 0.4, threads=1)],
            50,
            0,
            id="no-more-than-a-core-can-decode",
        ),
    ],
)
def test_the_best_point_is_chosen_by_throughput_latency_and_budget(
    engine: str, curve: list[LatencyPoint], budget_ms: float, best: int
) -> None:
    assert best_point(engine, curve, budget_ms) == curve[best]
    assert best_point(engine, reversed(curve), budget_ms) == curve[best]


@pytest.mark.parametrize(
    ("engine", "single_ms", "beside_ms", "single_stream"),
    [
        ("openvino-fp32", 9.6, 12, True),  # 0.8 of 12 ms
        ("onnxruntime-fp32", 9.6, 12, True),
        ("openvino-fp32", 9.7, 12, False),
        ("torchscript-fp32", 9.6, 12, False),  # its threads are those of the process
        ("openvino-fp32", 1.0, 1.9, False),  # saves less than 1 ms
        ("openvino-fp32", 1.3, 2.4, True),
    ],
)
def test_a_single_stream_engine_must_be_much_quicker(
    engine: str, single_ms: float, beside_ms: float, single_stream: bool
) -> None:
    # Two streams give more images a second in any case.
    chosen = plan_for(engine, [point(1, single_ms), point(1, beside_ms, streams=2)], 50)

    assert (chosen.streams, chosen.single_stream) == (2, single_stream)


def test_a_plan_of_one_stream_needs_no_single_stream_engine() -> None:
    chosen = plan_for("openvino-fp32", [point(1, 10), point(1, 30, streams=2)], 50)

    assert (chosen.streams, chosen.single_stream) == (1, False)


def test_the_plan_compiles_the_sizes_measured_up_to_the_best_one() -> None:
    curve = [point(4, 25), point(1, 10), point(2, 15), point(8, 60), point(1, 30, streams=2)]

    assert plan_for("openvino-fp32", curve, 50) == Plan(
        engine="openvino-fp32", streams=1, threads=2, batch_sizes=(1, 2, 4), service_time_ms=6.25
    )


def test_the_plan_takes_sizes_of_its_own_number_of_streams_only() -> None:
    chosen = plan_for(
        "one", [point(1, 10), point(2, 19), point(4, 37), point(1, 11, streams=2)], 50
    )

    assert (chosen.batch_sizes, chosen.streams) == ((1,), 2)


def test_the_fastest_plan_wins_and_an_earlier_one_where_the_gain_is_noise() -> None:
    plans = [plan("a", 10), plan("b", 9.6), plan("c", 5), plan("d", 4.9)]

    # b is 4 % faster than a, c twice as fast, d 2 % faster than c.
    assert fastest_plan(plans).engine == "c"
    assert fastest_plan(plans[:2]).engine == "a"


def test_an_engine_faster_than_decoding_does_not_replace_an_earlier_one() -> None:
    # Two cores decode 4,000 images a second at best: 0.25 ms each.
    plans = [plan("certified-first", 0.25), plan("faster-than-needed", 0.01)]

    assert fastest_plan(plans).engine == "certified-first"


class CountingEngine:
    """Records the plan it was loaded for and the batches it ran."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.shapes: set[tuple[int, ...]] = set()
        self.dtypes: set[str] = set()

    def run(self, batch: Batch) -> Logits:
        self.shapes.add(batch.shape)
        self.dtypes.add(str(batch.dtype))
        return np.zeros((len(batch), 1), np.float32)


def test_a_curve_is_measured_with_real_inputs_at_each_size_and_number_of_streams() -> None:
    engines: list[CountingEngine] = []

    def load(plan: Plan) -> CountingEngine:
        engines.append(CountingEngine(plan))
        return engines[-1]

    example = np.zeros((3, 4, 5, 1), np.uint8)
    curve = measure_curve(load, example, 2, budget_ms=1e6, seconds=0.001)

    measured = [(engine.plan.streams, engine.plan.batch_sizes[0]) for engine in engines]
    assert measured == [*((one.streams, one.batch_size) for one in curve), (2, 1), (1, 1)]
    assert {one.streams for one in curve} == {1, 2}
    for engine in engines:
        assert engine.shapes == {(*engine.plan.batch_sizes, 4, 5, 1)}
        assert engine.dtypes == {"uint8"}
        assert engine.plan.threads == 2


class Clock:
    """Stands in for `time`; advances only while an engine runs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    def perf_counter(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        with self._lock:
            self.seconds += seconds


def test_a_moment_in_which_the_machine_was_busy_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first: set[int] = set()
    clock = Clock()
    monkeypatch.setattr(planning, "time", clock)

    class Disturbed:
        def __init__(self, plan: Plan) -> None:
            # Something else runs while the first engine of one stream is measured.
            self.seconds = 0.02 if plan.streams == 1 and 1 not in first else 0.002
            first.add(plan.streams)

        def run(self, batch: Batch) -> Logits:
            clock.advance(self.seconds)
            return np.zeros((len(batch), 1), np.float32)

    example = np.zeros((1, 1, 1, 1), np.uint8)
    curve = measure_curve(Disturbed, example, 2, budget_ms=1e-9, seconds=0.05)

    assert (curve[0].streams, curve[0].latency_ms) == (1, pytest.approx(2))


def test_batches_beyond_the_budget_are_not_tried() -> None:
    curve = measure_curve(
        CountingEngine, np.zeros((1, 1, 1, 1), np.uint8), 1, budget_ms=1e-9, seconds=0.001
    )

    assert [one.batch_size for one in curve] == [1]
