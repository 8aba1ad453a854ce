"""Images that are run in the event loop, with a clock that only they move."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from image_classifier.inference.batcher import Answer
from image_classifier.inference.classifier import MAX_FILE_BYTES, MAX_IMAGE_S, PAUSE_S, TURN_S
from tests.inference.test_classifier import PIPELINES, FirstPixel, classifier, png


class TimedPreprocessing(FirstPixel):
    """Records the thread of each image; an image with the red n takes n milliseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.reds: list[int] = []
        self.threads: list[int] = []
        now = {name: lambda: self.now_s for name in ("perf_counter", "thread_time", "monotonic")}
        monkeypatch.setattr("image_classifier.inference.classifier.time", SimpleNamespace(**now))

    def to_input(self, image: Image.Image) -> np.ndarray:
        pixel = super().to_input(image)
        self.reds.append(int(pixel[0, 0, 0]))
        self.threads.append(threading.get_ident())
        self.now_s += self.reds[-1] / 1e3
        return pixel


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> TimedPreprocessing:
    return TimedPreprocessing(monkeypatch)


@pytest.mark.parametrize("kind", PIPELINES)
def test_each_image_gets_its_own_answer_or_error(timed: TimedPreprocessing, kind: str) -> None:
    async def main() -> list[Answer | BaseException]:
        one_core = classifier(kind, timed, cores=1)
        files = [png(1, 0, 0), b"not an image", png(2, 210, 0), png(3, 0, 0)]
        calls = [asyncio.ensure_future(one_core.classify(file, 1)) for file in files]
        await asyncio.sleep(0)
        calls[3].cancel()
        return await asyncio.gather(*calls, return_exceptions=True)

    first, bad, second, cancelled = asyncio.run(main())

    assert isinstance(first, Answer) and isinstance(second, Answer)
    assert [answer.predictions[0].label for answer in (first, second)] == ["dark", "light"]
    assert "image" in str(bad)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert timed.reds == [1, 2]
    assert set(timed.threads) == {threading.get_ident()}


def test_the_loop_goes_on_between_the_images_of_a_burst(timed: TimedPreprocessing) -> None:
    iterations_s: list[float] = []

    async def main() -> None:
        one_core = classifier("direct", timed, cores=1)
        burst = [asyncio.ensure_future(one_core.classify(png(2, 0, 0), 1)) for _ in range(9)]
        while not all(call.done() for call in burst):
            iterations_s.append(timed.now_s)
            await asyncio.sleep(0)

    asyncio.run(main())

    assert timed.now_s == pytest.approx(0.018)
    longest_s = max(np.diff(iterations_s))
    assert longest_s == pytest.approx(0.006)  # the third image begins within the turn
    assert longest_s - 0.002 <= TURN_S


def test_images_move_to_a_thread_for_a_while_after_one_that_took_long(
    timed: TimedPreprocessing,
) -> None:
    longest_ms = round(MAX_IMAGE_S * 1e3)

    async def main() -> None:
        one_core = classifier("direct", timed, cores=1)
        await one_core.classify(png(longest_ms - 1, 0, 0), 1)
        burst = [one_core.classify(png(red, 0, 0), 1) for red in (longest_ms + 1, 1)]
        await asyncio.gather(*burst)
        await one_core.classify(png(1, 0, 0), 1)
        timed.now_s += PAUSE_S
        await one_core.classify(png(1, 0, 0), 1)

    asyncio.run(main())

    own = threading.get_ident()
    in_loop = [thread == own for thread in timed.threads]
    assert in_loop == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("in_loop", "cores", "service_time_ms", "padding"),
    [
        (True, 1, MAX_IMAGE_S * 1e3, 0),
        (False, 2, 1, 0),  # another core is free
        (False, 1, MAX_IMAGE_S * 1e3 + 1, 0),
        (False, 1, 1, MAX_FILE_BYTES),
    ],
)
def test_only_short_images_run_in_the_loop_of_a_process_with_one_core(
    timed: TimedPreprocessing, in_loop: bool, cores: int, service_time_ms: float, padding: int
) -> None:
    async def main() -> None:
        service = classifier("direct", timed, cores=cores, service_time_ms=service_time_ms)
        await service.classify(png(1, 0, 0) + bytes(padding), 1)

    asyncio.run(main())

    assert (timed.threads == [threading.get_ident()]) is in_loop
