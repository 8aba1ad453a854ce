"""One image from file to predictions, with a preprocessing and a network done by hand."""

import asyncio
import threading
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from image_classifier.artifact.manifest import InputSpec, Outputs
from image_classifier.errors import DeadlineExceeded, Overloaded
from image_classifier.inference.batcher import Answer
from image_classifier.inference.classifier import Classifier
from image_classifier.inference.engine import Batch, EngineError, Logits
from image_classifier.inference.executor import Executor
from image_classifier.inference.runner import LocalRunner
from image_classifier.settings import Settings
from preprocessing import DecodeRules
from preprocessing.errors import ClientError
from tests.imports import PATIENCE_S
from tests.inference.fakes import plan

LABELS = ("dark", "light", "red")
WAYS = {"direct": (1,), "batched": (1, 4)}
"""The two ways an image can take, and the batch sizes that choose them."""


class FirstPixel:
    """The input is the first pixel."""

    decode = DecodeRules()
    input_shape = (1, 1, 3)
    input_dtype = "uint8"
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def to_input(self, image: Image.Image) -> np.ndarray:
        return np.array(image)[:1, :1]


class HeldBack(FirstPixel):
    """Waits in the decoding thread until the test lets it go on; records the red of each image."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun: list[int] = []

    def to_input(self, image: Image.Image) -> np.ndarray:
        self.begun.append(int(super().to_input(image)[0, 0, 0]))
        assert self.go_on.wait(PATIENCE_S)
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
    way: str,
    preprocessing: FirstPixel | None = None,
    *,
    engine: ColourEngine | None = None,
    single_stream_engine: ColourEngine | None = None,
    cores: int = 2,
    outputs: Outputs | None = None,
    **changes: float,
) -> Classifier:
    several = single_stream_engine is not None
    chosen_plan = plan(streams=1 + several, batch_sizes=WAYS[way], single_stream=several)
    spec = InputSpec.of(FirstPixel())  # type: ignore[arg-type]
    engine = engine or ColourEngine()
    runner = LocalRunner(Executor(engine, chosen_plan, spec, 3, single_stream_engine))
    artifact = SimpleNamespace(
        labels=lambda: LABELS,
        preprocessing=preprocessing or FirstPixel(),
        manifest=SimpleNamespace(outputs=outputs or Outputs(), input=spec),
    )
    waits = {"max_wait_ms": 1e6, "overload_wait_ms": 1e6, "timeout_ms": 600_000}
    chosen = {"default_top_k": 2, "max_queue": 64, **waits, **changes}
    settings = Settings.from_env({}).model_copy(update=chosen)
    return Classifier(artifact, runner, settings, cores=cores, workers=1)  # type: ignore[arg-type]


def png(*colour: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (3, 2), colour).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("way", WAYS)
def test_the_answer_follows_by_hand_from_the_pixel(way: str) -> None:
    answers = [
        asyncio.run(classifier(way).classify(png(*pixel), None))
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


def test_the_manifest_says_what_the_logits_mean() -> None:
    # With a threshold, all labels that reach it are the default, not two.
    multi_label = classifier("direct", outputs=Outputs(activation="sigmoid", threshold=0.4))

    # Logits 200, 0, 0: sigmoid gives 1, 0.5, 0.5. Logits -10, 0, 210: 0.00005, 0.5, 1.
    assert [
        [label.label for label in asyncio.run(multi_label.classify(png(*pixel), None)).predictions]
        for pixel in [(0, 0, 0), (210, 0, 0)]
    ] == [["dark", "light", "red"], ["red", "light"]]


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_takes_too_long_is_ended_and_its_place_is_free_again(way: str) -> None:
    slow = HeldBack()

    async def main() -> None:
        hasty = classifier(way, slow, timeout_ms=20, max_queue=1)
        for _ in range(2):
            with pytest.raises(DeadlineExceeded, match="no answer within 20 ms"):
                await hasty.classify(png(0, 0, 0), None)
        slow.go_on.set()

    asyncio.run(main())


def test_only_an_image_with_none_behind_it_takes_the_single_stream_engine() -> None:
    slow, engine, single = HeldBack(), ColourEngine(), ColourEngine()

    async def main() -> None:
        shared = classifier("direct", slow, engine=engine, single_stream_engine=single)
        calls = [asyncio.ensure_future(shared.classify(png(1, 2, 3), 1)) for _ in range(5)]
        await asyncio.sleep(0)
        slow.go_on.set()
        await asyncio.gather(*calls)
        in_company = engine.runs
        assert in_company >= 4  # all but the last have another one behind them
        with pytest.raises(ClientError):
            await shared.classify(b"not an image", 1)
        before = single.runs
        await shared.classify(png(1, 2, 3), 1)
        assert (engine.runs, single.runs) == (in_company, before + 1)

    asyncio.run(main())


@pytest.mark.parametrize("way", WAYS)
def test_no_work_begins_for_a_caller_that_left_or_an_image_that_waited_too_long(way: str) -> None:
    preprocessing, engine = HeldBack(), ColourEngine()

    async def main() -> list[Answer | BaseException]:
        narrow = classifier(way, preprocessing, engine=engine, cores=1, max_wait_ms=20)
        calls = [
            asyncio.ensure_future(narrow.classify(png(red, 0, 0), 1, timeout_ms=limit_ms))
            for red, limit_ms in [(1, 100), (2, 100), (3, None), (4, None)]
        ]
        await asyncio.sleep(0)
        calls[2].cancel()
        # The limits of the first, which is being decoded, and of the second pass; meanwhile the
        # fourth has waited too long.
        await asyncio.wait(calls[:2])
        preprocessing.go_on.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        await narrow.classify(png(5, 0, 0), 1)
        return outcomes

    outcomes = asyncio.run(main())

    late = [DeadlineExceeded, DeadlineExceeded]
    assert [type(one) for one in outcomes] == [*late, asyncio.CancelledError, Overloaded]
    assert "the caller's limit" in str(outcomes[0])
    assert preprocessing.begun == [1, 5]
    assert engine.runs == 1


@pytest.mark.parametrize(("timeout_s", "longest_s"), [(5, 8), (20, 20)])
def test_a_classifier_is_dead_once_a_run_takes_longer_than_any_request(
    timeout_s: float, longest_s: float
) -> None:
    service = classifier("batched", timeout_ms=timeout_s * 1e3)
    seconds = 0.0
    service.runner.watch._clock = lambda: seconds

    with service.runner.watch.run():
        seconds = longest_s - 0.1
        with service.runner.watch.run():  # one that just began
            slow = asyncio.run(service.is_alive())
            seconds = longest_s + 0.1
            hung = asyncio.run(service.is_alive())

    assert (slow, hung) == (True, False)
    assert asyncio.run(service.is_alive())


class Breakable(ColourEngine):
    broken = False

    def run(self, batch: Batch) -> Logits:
        if self.broken:
            raise EngineError("broken")
        return super().run(batch)


@pytest.mark.parametrize("way", WAYS)
def test_a_classifier_is_dead_while_its_engine_fails_whatever_it_is_given(way: str) -> None:
    engine = Breakable()
    service = classifier(way, engine=engine)
    alive = []

    async def run() -> None:
        alive.append(await service.is_alive())
        engine.broken = True
        with pytest.raises(EngineError):
            await service.classify(png(0, 0, 0), None)
        alive.append(await service.is_alive())
        engine.broken = False  # as where one image alone had made it fail
        alive.append(await service.is_alive())

    asyncio.run(run())

    assert alive == [True, False, True]
