"""One image from file to predictions, with a preprocessing and a network done by hand."""

import asyncio
import threading
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from image_classifier.artifact.manifest import InputSpec, Outputs
from image_classifier.errors import DeadlineExceeded, MalformedRequest, Overloaded
from image_classifier.inference.batcher import Answer
from image_classifier.inference.classifier import Classifier
from image_classifier.inference.engine import Batch, Logits
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
        preprocessing=lambda: preprocessing or FirstPixel(),
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


def classify(data: bytes, top_k: int | None = None, way: str = "direct") -> Answer:
    return asyncio.run(classifier(way).classify(data, top_k))


@pytest.mark.parametrize("way", WAYS)
def test_the_answer_follows_by_hand_from_the_pixel(way: str) -> None:
    answers = [classify(png(*pixel), way=way) for pixel in [(0, 0, 0), (210, 250, 0), (250, 10, 0)]]

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
    multi_label = classifier("direct", outputs=Outputs(activation="sigmoid", threshold=0.4))

    # Logits 200, 0, 0: sigmoid gives 1, 0.5, 0.5. Logits -10, 0, 210: 0.00005, 0.5, 1.
    assert [
        [label.label for label in asyncio.run(multi_label.classify(png(*pixel), 3)).predictions]
        for pixel in [(0, 0, 0), (210, 0, 0)]
    ] == [["dark", "light", "red"], ["red", "light"]]


def test_top_k_is_the_number_of_predictions_and_lies_in_1_to_the_classes() -> None:
    counts = [len(classify(png(1, 2, 3), top_k).predictions) for top_k in (None, 1, 3)]

    assert counts == [2, 1, 3]
    for top_k in (0, -1, 4):
        with pytest.raises(MalformedRequest, match=r"expected 1\.\.3"):
            classify(png(1, 2, 3), top_k)


@pytest.mark.parametrize("way", WAYS)
def test_a_bad_file_fails_alone(way: str) -> None:
    async def main() -> list[Answer | BaseException]:
        shared = classifier(way)
        files = [png(0, 0, 0)] * 4 + [b"no image"] + [png(250, 10, 0)] * 4
        return await asyncio.gather(
            *(shared.classify(file, 1) for file in files), return_exceptions=True
        )

    outcomes = asyncio.run(main())

    labels = [item.predictions[0].label for item in outcomes if isinstance(item, Answer)]
    assert labels == ["dark"] * 4 + ["red"] * 4
    assert isinstance(outcomes[4], ClientError)


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


@pytest.mark.parametrize("way", WAYS)
def test_beyond_the_places_calls_are_refused_and_the_others_answered(way: str) -> None:
    slow = HeldBack()

    async def main() -> list[Answer | BaseException]:
        small = classifier(way, slow, max_queue=2)
        calls = [asyncio.ensure_future(small.classify(png(0, 0, 0), 1)) for _ in range(5)]
        await asyncio.sleep(0)
        slow.go_on.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = asyncio.run(main())

    assert [type(outcome) for outcome in outcomes] == [Answer] * 2 + [Overloaded] * 3


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
def test_an_image_whose_caller_left_or_that_waited_too_long_is_not_decoded(way: str) -> None:
    slow = HeldBack()

    async def main() -> None:
        narrow = classifier(way, slow, cores=1, max_wait_ms=20)
        first, left, late = (
            asyncio.ensure_future(narrow.classify(png(red, 0, 0), 1)) for red in (1, 2, 3)
        )
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0.05)  # longer than the third may wait
        slow.go_on.set()
        await first
        with pytest.raises(Overloaded):
            await late
        await narrow.classify(png(4, 0, 0), 1)

    asyncio.run(main())

    assert slow.begun == [1, 4]
