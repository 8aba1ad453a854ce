"""One image from file to predictions, with a hand-computable preprocessing and network."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from image_classifier.artifact.manifest import Outputs
from image_classifier.errors import DeadlineExceeded, Overloaded
from image_classifier.inference.batcher import Answer
from image_classifier.inference.classifier import MAX_FILE_BYTES, Classifier
from image_classifier.inference.engine import Batch, EngineError, Logits
from image_classifier.inference.executor import Executor
from image_classifier.inference.runner import LocalRunner
from image_classifier.settings import Settings
from preprocessing import DecodeRules, InputSpec
from preprocessing.errors import ClientError
from tests.imports import PATIENCE_S
from tests.inference.fakes import plan
from tests.preprocessing.files import encoded

LABELS = ("dark", "light", "red")
PIPELINES = {"direct": (1,), "batched": (1, 4)}
"""The two pipelines, and the batch sizes that select them."""


class FirstPixel:
    """The input is the first pixel."""

    decode = DecodeRules()
    input_spec = InputSpec(shape=(1, 1, 3), dtype="uint8", mean=(0.0,) * 3, std=(1.0,) * 3)

    def to_input(self, image: Image.Image) -> np.ndarray:
        return np.array(image)[:1, :1]


class BlockedPreprocessing(FirstPixel):
    """Blocks the decoding thread until `released` is set; records the red of each image."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.reds: list[int] = []

    def to_input(self, image: Image.Image) -> np.ndarray:
        self.reds.append(int(super().to_input(image)[0, 0, 0]))
        assert self.released.wait(PATIENCE_S)
        return super().to_input(image)


class ColourEngine:
    """Logits: 200 - red, green, red - green."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, batch: Batch) -> Logits:
        self.runs += 1
        red, green = (batch[:, 0, 0, channel].astype(np.float32) for channel in (0, 1))
        return np.stack([200 - red, green, red - green], axis=1)


def classifier(
    pipeline: str,
    preprocessing: FirstPixel | None = None,
    *,
    engine: ColourEngine | None = None,
    single_stream_engine: ColourEngine | None = None,
    cores: int = 2,
    outputs: Outputs | None = None,
    service_time_ms: float = 1,
    **changes: float,
) -> Classifier:
    several = single_stream_engine is not None
    sizes = PIPELINES[pipeline]
    chosen_plan = plan(
        streams=1 + several,
        batch_sizes=sizes,
        single_stream=several,
        service_time_ms=service_time_ms,
    )
    spec = FirstPixel.input_spec
    engine = engine or ColourEngine()
    runner = LocalRunner(Executor(engine, chosen_plan, spec, 3, single_stream_engine))
    artifact = SimpleNamespace(
        labels=lambda: LABELS,
        preprocessing=preprocessing or FirstPixel(),
        manifest=SimpleNamespace(outputs=outputs or Outputs(), input=spec),
    )
    waits = {"max_wait_ms": 1e6, "overload_wait_ms": 1e6, "timeout_ms": 600_000}
    settings = Settings.from_env({}).model_copy(update={"default_top_k": 2, **waits, **changes})
    return Classifier(artifact, runner, settings, cores=cores, workers=1)  # type: ignore[arg-type]


def png(*colour: int) -> bytes:
    return encoded(Image.new("RGB", (3, 2), colour), "PNG")


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_predictions_follow_by_hand_from_the_pixel(pipeline: str) -> None:
    answers = [
        asyncio.run(classifier(pipeline).classify(png(*pixel), None))
        for pixel in [(0, 0, 0), (210, 250, 0), (250, 10, 0)]
    ]

    # Logits: 200, 0, 0; -10, 250, -40; -50, 10, 240.
    assert [[prediction.label for prediction in answer.predictions] for answer in answers] == [
        ["dark", "light"],
        ["light", "dark"],
        ["red", "light"],
    ]
    for answer in answers:
        assert answer.decode_ms > 0
        assert min(answer.queue_ms, answer.infer_ms) >= 0
        assert answer.batch_size == 1


def test_with_a_threshold_all_labels_that_reach_it_are_the_default() -> None:
    multi_label = classifier("direct", outputs=Outputs(activation="sigmoid", threshold=0.4))

    # Logits 200, 0, 0: sigmoid gives 1, 0.5, 0.5. Logits -10, 0, 210: 0.00005, 0.5, 1.
    assert [
        [label.label for label in asyncio.run(multi_label.classify(png(*pixel), None)).predictions]
        for pixel in [(0, 0, 0), (210, 0, 0)]
    ] == [["dark", "light", "red"], ["red", "light"]]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_timeout_ends_the_call_and_frees_its_place(pipeline: str) -> None:
    preprocessing = BlockedPreprocessing()

    async def main() -> None:
        single_place = classifier(pipeline, preprocessing, timeout_ms=20, max_queue=1)
        for _ in range(2):
            with pytest.raises(DeadlineExceeded, match="no answer within 20 ms"):
                await single_place.classify(png(0, 0, 0), None)
        preprocessing.released.set()

    asyncio.run(main())


def test_only_an_image_without_a_successor_takes_the_single_stream_engine() -> None:
    preprocessing, engine, single = BlockedPreprocessing(), ColourEngine(), ColourEngine()

    async def main() -> None:
        direct = classifier("direct", preprocessing, engine=engine, single_stream_engine=single)
        calls = [asyncio.ensure_future(direct.classify(png(1, 2, 3), 1)) for _ in range(5)]
        await asyncio.sleep(0)
        preprocessing.released.set()
        await asyncio.gather(*calls)
        with_successor = engine.runs
        assert with_successor >= 4
        with pytest.raises(ClientError):
            await direct.classify(b"not an image", 1)
        before = single.runs
        await direct.classify(png(1, 2, 3), 1)
        assert (engine.runs, single.runs) == (with_successor, before + 1)

    asyncio.run(main())


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_no_work_begins_for_cancelled_callers_and_images_that_waited_too_long(
    pipeline: str,
) -> None:
    preprocessing, engine = BlockedPreprocessing(), ColourEngine()

    async def main() -> list[Answer | BaseException]:
        one_core = classifier(pipeline, preprocessing, engine=engine, cores=1, max_wait_ms=20)
        in_thread = bytes(MAX_FILE_BYTES)  # after the image: not decoded in the event loop

        async def call(red: int, timeout_s: float | None) -> Answer:
            async with asyncio.timeout(timeout_s):
                return await one_core.classify(png(red, 0, 0) + in_thread, 1)

        limits_s = [(1, 0.1), (2, 0.1), (3, None), (4, None)]
        calls = [asyncio.ensure_future(call(red, limit_s)) for red, limit_s in limits_s]
        await asyncio.sleep(0)
        calls[2].cancel()
        # The first, which is being decoded, and the second time out; meanwhile the fourth waits
        # too long.
        await asyncio.wait(calls[:2])
        preprocessing.released.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        await one_core.classify(png(5, 0, 0), 1)
        return outcomes

    outcomes = asyncio.run(main())

    late = [TimeoutError, TimeoutError]
    assert [type(outcome) for outcome in outcomes] == [*late, asyncio.CancelledError, Overloaded]
    assert preprocessing.reds == [1, 5]
    assert engine.runs == 1


@pytest.mark.parametrize(("timeout_s", "longest_s"), [(5, 8), (20, 20)])
def test_is_alive_is_false_once_a_run_takes_longer_than_any_request(
    monkeypatch: pytest.MonkeyPatch, timeout_s: float, longest_s: float
) -> None:
    service = classifier("batched", timeout_ms=timeout_s * 1e3)
    seconds = 0.0
    clock = SimpleNamespace(monotonic=lambda: seconds)
    monkeypatch.setattr("image_classifier.inference.runner.time", clock)

    with service.runner.watch.run():
        seconds = longest_s - 0.1
        with service.runner.watch.run():  # a younger run
            slow = asyncio.run(service.is_alive())
            seconds = longest_s + 0.1
            hung = asyncio.run(service.is_alive())

    assert (slow, hung) == (True, False)
    assert asyncio.run(service.is_alive())


class BreakableEngine(ColourEngine):
    broken = False

    def run(self, batch: Batch) -> Logits:
        if self.broken:
            raise EngineError("broken")
        return super().run(batch)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_is_alive_is_false_while_the_engine_fails_for_every_input(pipeline: str) -> None:
    engine = BreakableEngine()
    service = classifier(pipeline, engine=engine)
    alive = []

    async def run() -> None:
        alive.append(await service.is_alive())
        engine.broken = True
        with pytest.raises(EngineError):
            await service.classify(png(0, 0, 0), None)
        alive.append(await service.is_alive())
        engine.broken = False  # as if only that image had made it fail
        alive.append(await service.is_alive())

    asyncio.run(run())

    assert alive == [True, False, True]
