"""An engine that hangs or goes on failing is noticed; one that is slow or failed once is not."""

import asyncio

import pytest

from image_classifier.errors import DeadlineExceeded
from image_classifier.inference.batcher import Answer
from image_classifier.inference.engine import Batch, EngineError, Logits
from tests.imports import PATIENCE_S
from tests.inference.test_classifier import WAYS, ColourEngine, HeldBack, classifier, png


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


@pytest.mark.parametrize("way", WAYS)
def test_past_the_callers_limit_no_decoding_and_no_inference_begins(way: str) -> None:
    preprocessing, engine = HeldBack(), ColourEngine()
    service = classifier(way, preprocessing, engine=engine, cores=1)

    async def run() -> list[Answer | BaseException]:
        calls = [service.classify(png(red, 0, 0), None, timeout_ms=50) for red in (10, 20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        preprocessing.go_on.set()
        async with asyncio.timeout(PATIENCE_S):
            await service.classify(png(30, 0, 0), None)
        return answers

    answers = asyncio.run(run())

    assert [type(answer) for answer in answers] == [DeadlineExceeded, DeadlineExceeded]
    assert "the caller's limit" in str(answers[0])
    assert preprocessing.begun == [10, 30]
    assert engine.runs == 1
