"""The runner of another process, simulated by a proxy."""

import asyncio
import json
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest

from image_classifier.artifact.record import EngineAttempt, LatencyPoint, Plan
from image_classifier.errors import NotReady
from image_classifier.inference.machine import ABSENT_GPU
from image_classifier.inference.runner import RemoteRunner, RunnerDescription
from image_classifier.inference.shared_inputs import Place, SharedInputsReader
from preprocessing import InputSpec
from tests.artifact.builder import RECORD

INPUT_SPEC = InputSpec(shape=(1, 1, 1), dtype="uint8", mean=(0.5,), std=(0.5,))
PLAN = Plan(engine="one", streams=2, threads=2, batch_sizes=(1, 4), service_time_ms=2.5)


class Unavailable(Exception):
    """Raised by the proxy if the service does not accept a call."""


class Proxy:
    """Returns the outcomes in turn, one per call, and raises those that are exceptions.

    Args:
        can_open: Whether the runner's process can open the memory of this process.
    """

    def __init__(self, *outcomes: object, can_open: bool = False) -> None:
        self.calls = 0
        self.can_open = can_open
        self._outcomes = list(outcomes)
        self._reader = SharedInputsReader(INPUT_SPEC)
        self.to_async = SimpleNamespace(
            infer=self._answer,
            describe=self._answer,
            can_open=self._can_open,
        )

    async def _can_open(self, process: int, descriptor: int) -> bool:
        return self.can_open

    async def exchange(self, body: bytes) -> bytes:
        """Answer as `RunnerCalls` does: the logit of an input is its pixel."""
        self.calls += 1
        await asyncio.sleep(0)  # so that calls are concurrent
        inputs = self._reader.read(Place(*json.loads(body)))
        return inputs.reshape(-1, 1).astype(np.float32).tobytes()

    async def _answer(self, *_: object) -> Any:
        self.calls += 1
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def is_ready(self) -> Awaitable[Any]:
        return self._answer()


def runner(
    proxy: Proxy, *, service_time_ms: float = 1, accelerator: str | None = None
) -> RemoteRunner:
    plan = PLAN.model_copy(update={"service_time_ms": 99})  # includes decoding
    # A batch of 4 on one of two streams takes 8 times as long as one image on both.
    point = LatencyPoint(
        batch_size=4, streams=2, threads=2, latency_ms=8 * service_time_ms, images_per_s=1
    )
    attempt = EngineAttempt(engine=plan.engine, verdict="passed", curve=(point,))
    machine = RECORD.machine.model_copy(update={"accelerator": accelerator})
    record = RECORD.model_copy(update={"plan": plan, "attempts": (attempt,), "machine": machine})
    return RemoteRunner(proxy, proxy.exchange, record, INPUT_SPEC, 50, Unavailable)


LOST = aiohttp.ClientConnectionError()


@pytest.mark.parametrize(
    ("service_time_ms", "accelerator", "expected"),
    [
        # Half of the budget of 50 ms, at least one and at most 64 inputs.
        (1, None, (25, 99)),
        (0.1, None, (64, 99)),
        (120, None, (1, 99)),
        # Measured on a CPU, the record says nothing about the GPU.
        (120, ABSENT_GPU, (64, 1)),
    ],
)
def test_a_call_has_as_many_inputs_as_take_half_the_budget(
    service_time_ms: float, accelerator: str | None, expected: tuple[int, float]
) -> None:
    remote = runner(Proxy(), service_time_ms=service_time_ms, accelerator=accelerator)

    assert (remote.max_batch_size, remote.service_time_ms) == expected


def test_a_call_on_a_closed_connection_is_retried_once() -> None:
    logits = np.ones((1, 2), np.float32)
    batch = np.zeros((1, 1, 1, 1), np.uint8)

    assert asyncio.run(runner(Proxy(LOST, logits)).run(batch)) is logits
    twice = Proxy(LOST, LOST, logits)
    with pytest.raises(NotReady):
        asyncio.run(runner(twice).run(batch))
    assert twice.calls == 2


def test_inputs_are_passed_in_shared_memory_and_in_the_call_when_it_is_full() -> None:
    batches = [np.full((2, 1, 1, 1), number, np.uint8) for number in (1, 2, 3)]
    proxy = Proxy(np.full((2, 1), 3.0, np.float32), can_open=True)
    remote = runner(proxy)

    async def run_together() -> list[np.ndarray]:
        return await asyncio.gather(*(remote.run(batch) for batch in batches))

    answers = asyncio.run(run_together())

    assert [answer.tolist() for answer in answers] == [[[1], [1]], [[2], [2]], [[3], [3]]]
    assert proxy.calls == 3
    proxy.can_open = False  # called only once
    assert asyncio.run(remote.run(batches[0])).tolist() == [[1], [1]]


def test_inputs_are_passed_in_the_call_where_python_has_no_shared_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("os.memfd_create")
    logits = np.ones((1, 2), np.float32)

    answer = asyncio.run(runner(Proxy(logits)).run(np.zeros((1, 1, 1, 1), np.uint8)))

    assert answer is logits


@pytest.mark.parametrize("error", [Unavailable(), TimeoutError(), aiohttp.ClientPayloadError()])
def test_a_runner_that_accepts_no_call_is_not_ready(error: Exception) -> None:
    with pytest.raises(NotReady, match="the model cannot be reached; try again"):
        asyncio.run(runner(Proxy(error)).describe())
    assert not asyncio.run(runner(Proxy(error)).is_ready())
    assert not asyncio.run(runner(Proxy(False)).is_ready())
    assert asyncio.run(runner(Proxy(True)).is_ready())


def test_the_description_is_that_of_the_runners_process() -> None:
    steps: Any = [["load", 0.0, 2.5]]
    proxy = Proxy([PLAN.model_dump(mode="json"), "a GPU", steps])

    described = asyncio.run(runner(proxy).describe())

    assert described == RunnerDescription(PLAN, "a GPU", steps)
