"""The runner in another process, played by a proxy that does what a test says."""

import asyncio
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest

from image_classifier.artifact.record import Plan
from image_classifier.errors import NotReady
from image_classifier.inference.runner import RemoteRunner

PLAN = Plan(engine="one", streams=2, threads=2, batch_sizes=(1, 4), service_time_ms=2.5)


class Unavailable(Exception):
    """What the proxy raises where the service does not take a call."""


class Proxy:
    """Answers calls with the outcomes given, in turn; an exception is raised."""

    def __init__(self, *outcomes: object) -> None:
        self.calls = 0
        self._outcomes = list(outcomes)
        self.to_async = SimpleNamespace(infer=self._answer, plan=self._answer)

    async def _answer(self, *_: object) -> Any:
        self.calls += 1
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def is_ready(self) -> Awaitable[Any]:
        return self._answer()


def runner(proxy: Proxy, *, service_time_ms: float = 1, budget_ms: float = 50) -> RemoteRunner:
    plan = PLAN.model_copy(update={"service_time_ms": service_time_ms})
    record: Any = SimpleNamespace(plan=plan)
    return RemoteRunner(proxy, record, budget_ms, Unavailable)


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


def test_a_call_on_a_connection_that_was_just_closed_is_made_again_once() -> None:
    logits = np.ones((1, 2), np.float32)
    batch = np.zeros((1, 1, 1, 1), np.uint8)

    assert asyncio.run(runner(Proxy(LOST, logits)).run(batch)) is logits
    twice = Proxy(LOST, LOST, logits)
    with pytest.raises(NotReady):
        asyncio.run(runner(twice).run(batch))
    assert twice.calls == 2


@pytest.mark.parametrize("error", [Unavailable(), TimeoutError(), aiohttp.ClientPayloadError()])
def test_a_runner_that_takes_no_call_is_not_ready(error: Exception) -> None:
    with pytest.raises(NotReady, match="the model cannot be reached; try again"):
        asyncio.run(runner(Proxy(error)).describe())
    assert not asyncio.run(runner(Proxy(error)).is_ready())


@pytest.mark.parametrize("ready", [True, False])
def test_readiness_is_what_the_probe_of_the_runner_says(ready: bool) -> None:
    assert asyncio.run(runner(Proxy(ready)).is_ready()) is ready


def test_the_plan_is_the_one_the_runner_reports() -> None:
    assert asyncio.run(runner(Proxy(PLAN.model_dump(mode="json"))).describe()) == PLAN
