"""Calls of API processes to the runner: inputs in shared memory, logits as bytes."""

import asyncio

import numpy as np
import pytest

from image_classifier.http.runner_calls import RunnerCalls
from image_classifier.inference.engine import Batch
from image_classifier.inference.shared_inputs import SharedInputs, SharedInputsReader
from tests.http.fakes import Connection, body
from tests.inference.fakes import INPUT_SPEC, SumEngine, executor

Answer = tuple[int, list[list[float]]]


def filled(count: int, value: int) -> Batch:
    """Inputs whose logits are 6 × value and -6 × value."""
    return np.full((count, *INPUT_SPEC.shape), value, np.uint8)


def cannot_run_255(batch: Batch) -> None:
    if (batch == 255).any():
        raise ValueError("cannot run this")


async def call(app: RunnerCalls, data: bytes, client: tuple[str, int] | None = None) -> Answer:
    """Send a body in two parts."""
    connection = Connection(body(data[:7], more=True), body(data[7:]))
    await app({"type": "http", "client": client}, connection.receive, connection.send)
    logits = np.frombuffer(connection.sent[1]["body"], np.float32).reshape(-1, 2)
    return connection.status, logits.tolist()


@pytest.fixture
def engine() -> SumEngine:
    return SumEngine(cannot_run_255)


@pytest.fixture
def app(engine: SumEngine) -> RunnerCalls:
    app = RunnerCalls()
    app.serve(executor(engine, 1, 4, accelerator="a GPU"), SharedInputsReader(INPUT_SPEC))
    return app


def test_calls_of_several_processes_form_batches_and_each_has_its_own_answers(
    app: RunnerCalls, engine: SumEngine
) -> None:
    async def together() -> list[Answer]:
        memories = [SharedInputs(INPUT_SPEC, calls=1, max_batch_size=2) for _ in range(3)]
        with (
            memories[0].holding(filled(2, 1)) as first,
            memories[1].holding(filled(2, 2)) as second,
            memories[2].holding(filled(1, 3)) as third,
        ):
            bodies = (first.tobytes(), second.tobytes(), third.tobytes())
            return await asyncio.gather(*(call(app, data) for data in bodies))

    answers = asyncio.run(together())

    assert answers == [(200, [[6, -6]] * 2), (200, [[12, -12]] * 2), (200, [[18, -18]])]
    assert engine.sizes[0] == 1  # the stream was free
    assert len(engine.sizes) < 5


def test_an_input_that_cannot_run_fails_its_own_call_alone(app: RunnerCalls) -> None:
    async def together() -> list[Answer]:
        memory = SharedInputs(INPUT_SPEC, calls=2, max_batch_size=2)
        with memory.holding(filled(2, 9)) as first, memory.holding(filled(1, 255)) as second:
            bodies = (first.tobytes(), second.tobytes())
            return await asyncio.gather(*(call(app, data) for data in bodies))

    assert asyncio.run(together()) == [(200, [[54, -54]] * 2), (500, [])]


def test_before_the_network_is_loaded_the_answer_is_503() -> None:
    assert asyncio.run(call(RunnerCalls(), b"")) == (503, [])


def test_a_caller_that_ends_while_it_sends_has_no_answer(
    app: RunnerCalls, caplog: pytest.LogCaptureFixture
) -> None:
    connection = Connection(body(b"1234", more=True), {"type": "http.disconnect"})

    asyncio.run(app({"type": "http", "client": None}, connection.receive, connection.send))

    assert connection.sent == []
    assert not caplog.records


def test_a_client_of_the_network_is_not_answered(app: RunnerCalls) -> None:
    assert asyncio.run(call(app, bytes(24), ("10.0.0.1", 5000))) == (404, [])
