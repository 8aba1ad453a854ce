"""Calls of API processes to the runner: inputs in shared memory, logits as bytes."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import numpy as np
import pytest

from image_classifier.artifact.manifest import InputSpec
from image_classifier.artifact.record import Plan
from image_classifier.http.runner_calls import RunnerCalls
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.executor import Executor
from image_classifier.inference.shared_inputs import SharedInputs, SharedInputsReader

SPEC = InputSpec(shape=(1, 1, 2), dtype="uint8", mean=(0.5, 0.5), std=(0.5, 0.5))
Answer = tuple[int, list[list[float]]]


class Doubling:
    """An engine whose logits are twice the pixels; it cannot run a pixel of 255."""

    def __init__(self) -> None:
        self.ran: list[int] = []

    def run(self, batch: Batch) -> Logits:
        self.ran.append(len(batch))
        if (batch == 255).any():
            raise ValueError("cannot run this")
        return batch.reshape(len(batch), 2).astype(np.float32) * 2


async def call(app: RunnerCalls, body: bytes, client: tuple[str, int] | None = None) -> Answer:
    """Send a body in two parts."""
    parts = [body[:7], body[7:]]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app({"type": "http", "client": client}, receive, send)
    logits = np.frombuffer(sent[1]["body"], np.float32).reshape(-1, 2)
    return sent[0]["status"], logits.tolist()


@pytest.fixture
def engine() -> Doubling:
    return Doubling()


@pytest.fixture
def app(engine: Doubling) -> RunnerCalls:
    plan = Plan(engine="one", streams=1, threads=1, batch_sizes=(1, 4), service_time_ms=1)
    app = RunnerCalls()
    app.serve(Executor(engine, plan, SPEC, 2, whole_batches=True), SharedInputsReader(SPEC))
    return app


def test_calls_of_several_processes_form_batches_and_each_has_its_own_answers(
    app: RunnerCalls, engine: Doubling
) -> None:
    async def together() -> list[Answer]:
        memories = [SharedInputs(SPEC, calls=1, max_batch_size=2) for _ in range(3)]
        batches = [np.full((2, *SPEC.shape), number, np.uint8) for number in (1, 2, 3)]
        with (
            memories[0].holding(batches[0]) as first,
            memories[1].holding(batches[1]) as second,
            memories[2].holding(batches[2][:1]) as third,
        ):
            bodies = (first.tobytes(), second.tobytes(), third.tobytes())
            return await asyncio.gather(*(call(app, body) for body in bodies))

    answers = asyncio.run(together())

    assert answers == [(200, [[2, 2]] * 2), (200, [[4, 4]] * 2), (200, [[6, 6]])]
    assert engine.ran[0] == 1  # the stream was free
    assert len(engine.ran) < 5


def test_an_input_that_cannot_run_fails_its_own_call_alone(app: RunnerCalls) -> None:
    async def together() -> list[Answer]:
        memory = SharedInputs(SPEC, calls=2, max_batch_size=2)
        good, bad = np.full((2, *SPEC.shape), 9, np.uint8), np.full((1, *SPEC.shape), 255, np.uint8)
        with memory.holding(good) as first, memory.holding(bad) as second:
            bodies = (first.tobytes(), second.tobytes())
            return await asyncio.gather(*(call(app, body) for body in bodies))

    assert asyncio.run(together()) == [(200, [[18, 18]] * 2), (500, [])]


def test_before_the_network_is_loaded_the_answer_is_503() -> None:
    assert asyncio.run(call(RunnerCalls(), b"")) == (503, [])


def test_a_caller_that_ends_while_it_sends_has_no_answer(
    app: RunnerCalls, caplog: pytest.LogCaptureFixture
) -> None:
    messages: list[MutableMapping[str, Any]] = [
        {"type": "http.request", "body": b"1234", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> MutableMapping[str, Any]:
        return messages.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        pytest.fail(f"sent {message}")

    asyncio.run(app({"type": "http", "client": None}, receive, send))

    assert not caplog.records


def test_a_client_of_the_network_is_not_answered(app: RunnerCalls) -> None:
    assert asyncio.run(call(app, bytes(24), ("10.0.0.1", 5000))) == (404, [])
