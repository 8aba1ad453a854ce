"""Plans from latency curves drawn by hand."""

import threading

import numpy as np
import pytest

from image_classifier.artifact.record import LatencyPoint, Plan
from image_classifier.inference import plan as latency
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


def test_the_best_point_has_most_images_a_second_within_half_the_budget() -> None:
    # 100/s, 133/s, 160/s, 178/s; a budget of 50 ms leaves 25 ms for a batch.
    curve = [point(1, 10), point(2, 15), point(4, 25), point(8, 45)]

    assert best_point("openvino-fp32", curve, 50) == curve[2]
    assert best_point("openvino-fp32", curve, 49) == curve[1]
    assert best_point("openvino-fp32", curve, 90) == curve[3]


def test_a_larger_batch_that_is_hardly_faster_is_not_worth_its_latency() -> None:
    # 100/s and 104/s: less than 5 % more.
    curve = [point(1, 10), point(2, 19.2)]

    assert best_point("openvino-fp32", curve, 50) == curve[0]


def test_batches_must_bring_a_fifth_more_than_single_images() -> None:
    # 100/s, then 118/s and 130/s in batches: 18 % are too little, 30 % are not.
    curve = [point(1, 10), point(2, 17), point(4, 30.7)]

    assert best_point("openvino-fp32", curve[:2], 100) == curve[0]
    assert best_point("openvino-fp32", curve, 100) == curve[2]
    # From batch to batch 5 % are enough: 130/s and 138/s.
    assert best_point("openvino-fp32", [*curve, point(8, 58)], 200).batch_size == 8


def test_streams_may_take_the_whole_budget_where_a_lone_image_does_not_wait_for_them() -> None:
    # 45/s and 50/s; two images in turn would be answered after 22 and 44 ms.
    curve = [point(1, 22), point(1, 40, streams=2)]

    assert best_point("openvino-fp32", curve, 50) == curve[1]
    assert best_point("openvino-fp32", curve, 39) == curve[0]
    assert best_point("torchscript-fp32", curve, 50) == curve[0]


def test_more_streams_win_where_they_bring_more() -> None:
    # One stream 100/s; two streams 2 / 12 ms = 167/s.
    curve = [point(1, 10), point(1, 12, streams=2)]

    assert best_point("openvino-fp32", curve, 50) == curve[1]


def test_of_equal_ways_the_one_with_more_streams_and_smaller_batches_is_taken() -> None:
    # 100/s three times.
    curve = [point(1, 10), point(2, 20), point(1, 20, streams=2)]

    assert best_point("openvino-fp32", curve, 50) == curve[2]
    # Nothing makes up for the longer latency of a lone image in torch.
    assert best_point("torchscript-fp32", curve, 50) == curve[0]


@pytest.mark.parametrize(
    ("engine", "lone_ms", "single_stream"),
    [
        ("openvino-fp32", 9.6, True),  # 0.8 of 12 ms
        ("onnxruntime-fp32", 9.6, True),
        ("openvino-fp32", 9.7, False),
        ("torchscript-fp32", 9.6, False),  # its threads are those of the process
    ],
)
def test_a_lone_image_takes_all_threads_where_that_is_much_quicker(
    engine: str, lone_ms: float, single_stream: bool
) -> None:
    # 104/s and 167/s: two streams in any case.
    chosen = plan_for(engine, [point(1, lone_ms), point(1, 12, streams=2)], 50)

    assert (chosen.streams, chosen.single_stream) == (2, single_stream)


def test_a_second_copy_of_the_weights_must_save_a_millisecond() -> None:
    quick, slow = (
        [point(1, lone_ms), point(1, beside_ms, streams=2)]
        for lone_ms, beside_ms in [(1.0, 1.9), (1.3, 2.4)]
    )

    assert (plan_for("one", quick, 50).streams, plan_for("one", quick, 50).single_stream) == (2, False)
    assert (plan_for("one", slow, 50).streams, plan_for("one", slow, 50).single_stream) == (2, True)


def test_one_stream_has_all_threads_already() -> None:
    curve = [point(1, 10), point(1, 30, streams=2)]

    assert not plan_for("openvino-fp32", curve, 50).single_stream


def test_the_order_of_the_points_does_not_matter() -> None:
    curve = [point(1, 10), point(2, 15), point(1, 12, streams=2), point(2, 23, streams=2)]

    assert best_point("openvino-fp32", curve, 50) == best_point(
        "openvino-fp32", reversed(curve), 50
    )


def test_where_no_point_fits_the_budget_the_quickest_is_taken() -> None:
    curve = [point(1, 80), point(2, 120), point(1, 70, streams=2)]

    assert best_point("openvino-fp32", curve, 50) == curve[2]


def test_more_images_than_a_core_can_decode_are_no_gain() -> None:
    # 3,000/s, then 10,000/s on one core: only 2,000 of either could be used.
    curve = [point(1, 1 / 3, threads=1), point(4, 0.4, threads=1)]

    assert best_point("openvino-fp32", curve, 50) == curve[0]


def test_the_plan_compiles_the_sizes_measured_up_to_the_best_one() -> None:
    curve = [point(4, 25), point(1, 10), point(2, 15), point(8, 60), point(1, 30, streams=2)]

    chosen = plan_for("openvino-fp32", curve, 50)

    assert chosen == Plan(
        engine="openvino-fp32", streams=1, threads=2, batch_sizes=(1, 2, 4), service_time_ms=6.25
    )


def test_the_plan_takes_sizes_of_its_own_number_of_streams_only() -> None:
    curve = [point(1, 10), point(2, 19), point(4, 37), point(1, 11, streams=2)]

    assert plan_for("one", curve, 50).batch_sizes == (1,)
    assert plan_for("one", curve, 50).streams == 2


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
    """Notes the plan it was loaded for and the batches it ran."""

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
    """Stands in for `time`: goes on only while an engine runs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    def perf_counter(self) -> float:
        return self.seconds

    def go_on(self, seconds: float) -> None:
        with self._lock:
            self.seconds += seconds


def test_a_moment_in_which_the_machine_was_busy_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first: set[int] = set()
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)

    class Disturbed:
        def __init__(self, plan: Plan) -> None:
            # Something else runs while the first engine of one stream is measured.
            self.seconds = 0.02 if plan.streams == 1 and 1 not in first else 0.002
            first.add(plan.streams)

        def run(self, batch: Batch) -> Logits:
            clock.go_on(self.seconds)
            return np.zeros((len(batch), 1), np.float32)

    example = np.zeros((1, 1, 1, 1), np.uint8)
    curve = measure_curve(Disturbed, example, 2, budget_ms=1e-9, seconds=0.05)

    assert (curve[0].streams, curve[0].latency_ms) == (1, pytest.approx(2))


def test_batches_beyond_the_budget_are_not_tried() -> None:
    curve = measure_curve(
        CountingEngine, np.zeros((1, 1, 1, 1), np.uint8), 1, budget_ms=1e-9, seconds=0.001
    )

    assert [one.batch_size for one in curve] == [1]
