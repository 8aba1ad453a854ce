"""The runner in another process, played by a proxy that does what a test says."""

import asyncio
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest

from image_classifier.artifact.manifest import InputSpec
from image_classifier.artifact.record import EngineAttempt, LatencyPoint, Plan
from image_classifier.errors import NotReady
from image_classifier.inference.machine import ABSENT_GPU
from image_classifier.inference.runner import RemoteRunner, RunnerDescription
from image_classifier.inference.shared_inputs import SharedInputsReader
from tests.artifact.builder import RECORD

INPUT_SPEC = InputSpec(shape=(1, 1, 1), dtype="uint8", mean=(0.5,), std=(0.5,))
PLAN = Plan(engine="one", streams=2, threads=2, batch_sizes=(1, 4), service_time_ms=2.5)


class Unavailable(Exception):
    """What the proxy raises where the service does not take a call."""


class Proxy:
    """Answers calls with the outcomes given, in turn; an exception is raised.

    Args:
        can_open: Whether the runner's process sees the memory of this one.
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
        await asyncio.sleep(0)  # calls in flight meet
        inputs = self._reader.read(np.frombuffer(body, np.int64).reshape(-1, 3))
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
    proxy: Proxy,
    *,
    service_time_ms: float = 1,
    budget_ms: float = 50,
    accelerator: str | None = None,
) -> RemoteRunner:
    plan = PLAN.model_copy(
        update={"service_time_ms": 99}
    )  # with decoding, which is not the runner's
    # Two streams: an image takes them twice the time that it takes both together.
    point = LatencyPoint(
        batch_size=4, streams=2, threads=2, latency_ms=8 * service_time_ms, images_per_s=1
    )
    attempt = EngineAttempt(engine=plan.engine, verdict="passed", curve=(point,))
    machine = RECORD.machine.model_copy(update={"accelerator": accelerator})
    record = RECORD.model_copy(update={"plan": plan, "attempts": (attempt,), "machine": machine})
    return RemoteRunner(proxy, proxy.exchange, record, INPUT_SPEC, budget_ms, Unavailable)


LOST = aiohttp.ClientConnectionError()


@pytest.mark.parametrize(
    ("service_time_ms", "budget_ms", "inputs"),
    # Half of the budget, at most 64 and at least one: 25, 64 of 250, 1 of 0.2.
    [(1, 50, 25), (0.1, 50, 64), (120, 50, 1)],
)
def test_a_call_carries_what_takes_half_the_budget(
    service_time_ms: float, budget_ms: float, inputs: int
) -> None:
    remote = runner(Proxy(), service_time_ms=service_time_ms, budget_ms=budget_ms)

    assert remote.max_batch_size == inputs


def test_what_a_machine_without_a_gpu_measured_says_nothing_of_the_gpu() -> None:
    measured = runner(Proxy(), service_time_ms=120)
    elsewhere = runner(Proxy(), service_time_ms=120, accelerator=ABSENT_GPU)

    assert (measured.max_batch_size, measured.service_time_ms) == (1, 99)
    assert (elsewhere.max_batch_size, elsewhere.service_time_ms) == (64, 1)


def test_a_call_on_a_connection_that_was_just_closed_is_made_again_once() -> None:
    logits = np.ones((1, 2), np.float32)
    batch = np.zeros((1, 1, 1, 1), np.uint8)

    assert asyncio.run(runner(Proxy(LOST, logits)).run(batch)) is logits
    twice = Proxy(LOST, LOST, logits)
    with pytest.raises(NotReady):
        asyncio.run(runner(twice).run(batch))
    assert twice.calls == 2


def test_inputs_travel_in_shared_memory_and_beside_it_where_that_is_full() -> None:
    batches = [np.full((2, 1, 1, 1), number, np.uint8) for number in (1, 2, 3)]
    proxy = Proxy(np.full((2, 1), 3.0, np.float32), can_open=True)
    remote = runner(proxy)

    async def run_together() -> list[np.ndarray]:
        return await asyncio.gather(*(remote.run(batch) for batch in batches))

    answers = asyncio.run(run_together())

    assert [answer.tolist() for answer in answers] == [[[1], [1]], [[2], [2]], [[3], [3]]]
    assert proxy.calls == 3
    proxy.can_open = False  # asked once
    assert asyncio.run(remote.run(batches[0])).tolist() == [[1], [1]]


@pytest.mark.parametrize("error", [Unavailable(), TimeoutError(), aiohttp.ClientPayloadError()])
def test_a_runner_that_takes_no_call_is_not_ready(error: Exception) -> None:
    with pytest.raises(NotReady, match="the model cannot be reached; try again"):
        asyncio.run(runner(Proxy(error)).describe())
    assert not asyncio.run(runner(Proxy(error)).is_ready())


def test_readiness_is_what_the_probe_of_the_runner_says() -> None:
    for ready in (True, False):
        assert asyncio.run(runner(Proxy(ready)).is_ready()) is ready


def test_the_plan_is_the_one_the_runner_reports() -> None:
    steps: Any = [["load", 0.0, 2.5]]
    proxy = Proxy([PLAN.model_dump(mode="json"), "a GPU", steps])

    described = asyncio.run(runner(proxy).describe())

    assert described == RunnerDescription(PLAN, "a GPU", steps)
