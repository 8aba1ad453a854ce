"""The whole way of one image, with a preprocessing and a network simple enough for hand work."""

import asyncio
import functools
import math
import threading
from io import BytesIO

import numpy as np
import pytest
from image_classifier.inference.pipeline import BatchedPipeline, DirectPipeline, Pipeline, ToInput
from PIL import Image, UnidentifiedImageError

from image_classifier.errors import DeadlineExceeded, MalformedRequest, Overloaded
from image_classifier.inference.admission import Admission, Reservation
from image_classifier.inference.batcher import Batcher
from image_classifier.inference.classifier import Answer, Classifier
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.executor import Alone
from preprocessing import DecodeLimits, DecodeRules
from preprocessing import to_input as preprocess
from preprocessing.errors import ClientError
from tests.imports import PATIENCE_S

LABELS = ("dark", "light", "red")


class FirstPixel:
    """The input is the first pixel."""

    decode = DecodeRules()
    input_shape = (1, 1, 3)
    input_dtype = "uint8"
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def to_input(self, image: Image.Image) -> np.ndarray:
        return np.array(image)[:1, :1]


class SlowPixel(FirstPixel):
    """Waits in the decoding thread until the test lets it go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def to_input(self, image: Image.Image) -> np.ndarray:
        assert self.go_on.wait(PATIENCE_S)
        return super().to_input(image)


async def judge_colours(batch: Batch) -> Logits:
    """Logits: 200 - red, green, red - green."""
    red, green = (batch[:, 0, 0, channel].astype(np.float32) for channel in (0, 1))
    return np.stack([200 - red, green, red - green], axis=1)


def png(*colour: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (3, 2), colour).save(file, "PNG")
    return file.getvalue()


def judge(batch: Batch, alone: Alone = lambda: True) -> Logits:
    """`judge_colours`, in the calling thread."""
    return asyncio.run(judge_colours(batch))


def pipelines(to_input: ToInput) -> dict[str, Pipeline]:
    """Both ways an image can take."""
    batcher = Batcher(judge_colours, max_batch_size=4, concurrency=1)
    return {
        "direct": DirectPipeline(to_input, judge, threads=2),
        "batched": BatchedPipeline(to_input, batcher, threads=2),
    }


WAYS = ("direct", "batched")


def admission(max_in_flight: int = 64, **waits: float) -> Admission:
    return Admission(
        max_in_flight=max_in_flight,
        max_wait_ms=waits.get("max_wait_ms", 1e6),
        overload_wait_ms=1e6,
        answer_interval_ms=1,
        parallel=1,
    )


def unlimited() -> Reservation:
    return Reservation(admission(), math.inf)


def classifier(
    way: str,
    preprocessing: FirstPixel | None = None,
    *,
    timeout_ms: float = 600_000,
    max_in_flight: int = 64,
    door: Admission | None = None,
) -> Classifier:
    to_input = functools.partial(
        preprocess,
        preprocessing=preprocessing or FirstPixel(),  # type: ignore[arg-type]
        limits=DecodeLimits(),
    )
    return Classifier(
        pipelines(to_input)[way],
        door or admission(max_in_flight),
        LABELS,
        timeout_ms=timeout_ms,
        default_top_k=2,
    )


def classify(image: bytes, top_k: int | None = None, way: str = "direct") -> Answer:
    return asyncio.run(classifier(way).classify(image, top_k))


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        (png(0, 0, 0), ["dark", "light"]),  # 200, 0, 0
        (png(210, 250, 0), ["light", "dark"]),  # -10, 250, -40
        (png(250, 10, 0), ["red", "light"]),  # -50, 10, 240
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_the_answer_follows_by_hand_from_the_pixel(
    image: bytes, labels: list[str], way: str
) -> None:
    assert [one.label for one in classify(image, way=way).predictions] == labels


@pytest.mark.parametrize(("top_k", "count"), [(None, 2), (1, 1), (3, 3)])
def test_top_k_decides_how_many_predictions_come(top_k: int | None, count: int) -> None:
    assert len(classify(png(1, 2, 3), top_k).predictions) == count


@pytest.mark.parametrize("top_k", [0, -1, 4])
def test_a_top_k_that_cannot_be_is_the_clients_error(top_k: int) -> None:
    with pytest.raises(MalformedRequest, match=r"expected 1\.\.3"):
        classify(png(1, 2, 3), top_k)


@pytest.mark.parametrize("way", WAYS)
def test_a_bad_file_fails_alone(way: str) -> None:
    async def main() -> list[Answer | BaseException]:
        one = classifier(way)
        files = [png(0, 0, 0)] * 4 + [b"no image"] + [png(250, 10, 0)] * 4
        return await asyncio.gather(
            *(one.classify(file, 1) for file in files), return_exceptions=True
        )

    outcomes = asyncio.run(main())

    labels = [one.predictions[0].label for one in outcomes if isinstance(one, Answer)]
    assert labels == ["dark"] * 4 + ["red"] * 4
    assert isinstance(outcomes[4], ClientError)


@pytest.mark.parametrize("way", WAYS)
def test_a_client_is_told_when_time_is_up_and_its_place_is_free_again(way: str) -> None:
    slow = SlowPixel()

    async def main() -> None:
        door = admission(max_in_flight=1)
        with pytest.raises(DeadlineExceeded, match="no answer within 20 ms"):
            await classifier(way, slow, timeout_ms=20, door=door).classify(png(0, 0, 0), None)
        slow.go_on.set()
        answer = await classifier(way, slow, door=door).classify(png(0, 0, 0), 1)
        assert answer.predictions[0].label == "dark"

    asyncio.run(main())


@pytest.mark.parametrize("way", WAYS)
def test_beyond_the_places_a_client_is_refused_and_the_others_are_answered(way: str) -> None:
    slow = SlowPixel()

    async def main() -> list[Answer | BaseException]:
        one = classifier(way, slow, max_in_flight=2)
        asked = [asyncio.ensure_future(one.classify(png(0, 0, 0), 1)) for _ in range(5)]
        await asyncio.sleep(0)
        slow.go_on.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    outcomes = asyncio.run(main())

    assert [type(one) for one in outcomes] == [Answer] * 2 + [Overloaded] * 3


@pytest.mark.parametrize("way", WAYS)
def test_every_stage_has_its_time(way: str) -> None:
    stages = classify(png(1, 2, 3), way=way).inference

    assert stages.decode_ms > 0
    assert min(stages.queue_ms, stages.infer_ms) >= 0
    assert stages.batch_size == 1


def test_an_image_is_alone_where_no_other_is_to_come() -> None:
    slow = SlowPixel()
    said: list[bool] = []

    def to_input(image: bytes) -> np.ndarray:
        return slow.to_input(Image.open(BytesIO(image)))

    def infer(batch: Batch, alone: Alone) -> Logits:
        said.append(alone())
        return judge(batch)

    async def main() -> None:
        pipeline = DirectPipeline(to_input, infer, threads=1)
        three = [asyncio.ensure_future(pipeline.run(png(1, 2, 3), unlimited())) for _ in range(3)]
        await asyncio.sleep(0)
        slow.go_on.set()
        await asyncio.gather(*three)
        with pytest.raises(UnidentifiedImageError):
            await pipeline.run(b"not an image", unlimited())
        await pipeline.run(png(1, 2, 3), unlimited())

    asyncio.run(main())

    # The third has none behind it, whether or not the second is still inside.
    assert said == [False, False, True, True]


def test_an_image_that_was_given_up_before_its_turn_is_not_decoded() -> None:
    slow = SlowPixel()
    begun: list[bytes] = []

    def to_input(image: bytes) -> np.ndarray:
        begun.append(image)
        return slow.to_input(Image.new("RGB", (1, 1)))

    async def main() -> None:
        pipeline = DirectPipeline(to_input, judge, threads=1)
        first = asyncio.ensure_future(pipeline.run(b"first", unlimited()))
        second = asyncio.ensure_future(pipeline.run(b"second", unlimited()))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])  # the loop has told the pool
        slow.go_on.set()
        await first
        assert (await pipeline.run(b"third", unlimited())).batch_size == 1

    asyncio.run(main())

    assert begun == [b"first", b"third"]


@pytest.mark.parametrize("way", WAYS)
def test_an_image_that_has_waited_too_long_is_refused_undecoded(way: str) -> None:
    begun: list[bytes] = []
    now = 0.0

    def to_input(image: bytes) -> np.ndarray:
        begun.append(image)
        return np.zeros((1, 1, 3), np.uint8)

    async def main() -> None:
        nonlocal now
        door = Admission(
            max_in_flight=9,
            max_wait_ms=100,
            overload_wait_ms=50,
            answer_interval_ms=1,
            parallel=0,
            clock=lambda: now,
        )
        pipeline = pipelines(to_input)[way]
        with door.reserve() as reservation:
            now = 0.099
            await pipeline.run(b"in time", reservation)
            now = 0.101
            with pytest.raises(Overloaded):
                await pipeline.run(b"late", reservation)

    asyncio.run(main())

    assert begun == [b"in time"]


def test_an_image_that_waits_too_long_for_its_batch_is_refused_and_not_inferred() -> None:
    sizes: list[int] = []
    now = 0.0
    free = asyncio.Event()

    async def run_batch(batch: Batch) -> Logits:
        sizes.append(len(batch))
        await free.wait()
        return await judge_colours(batch)

    async def main() -> list[object]:
        nonlocal now
        door = Admission(
            max_in_flight=9,
            max_wait_ms=100,
            overload_wait_ms=50,
            answer_interval_ms=1,
            parallel=0,
            clock=lambda: now,
        )
        batcher = Batcher(run_batch, max_batch_size=1, concurrency=1)
        image = np.zeros((1, 1, 3), np.uint8)
        with door.reserve() as reservation:
            both = [asyncio.ensure_future(batcher.submit(image, reservation)) for _ in range(2)]
            await asyncio.sleep(0)
            now = 0.2
            free.set()
            return await asyncio.gather(*both, return_exceptions=True)

    first, second = asyncio.run(main())

    assert not isinstance(first, Exception)
    assert isinstance(second, Overloaded)
    assert sizes == [1]
