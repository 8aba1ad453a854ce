"""Calls of API processes to the runner: inputs in shared memory, logits as bytes."""

import asyncio
import json
from unittest.mock import Mock

import numpy as np
import pytest

from image_classifier.http.runner_calls import RunnerCalls
from image_classifier.inference.engine import Batch
from image_classifier.inference.shared_inputs import SharedInputs, SharedInputsReader
from tests.http.fakes import in_parts, request
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
    content = in_parts(data[:7], data[7:])
    response = await request(app, "POST", "/logits", client, content=content)
    logits = np.frombuffer(response.content, np.float32).reshape(-1, 2)
    return response.status_code, logits.tolist()


@pytest.fixture
def engine() -> SumEngine:
    return SumEngine(cannot_run_255)


@pytest.fixture
def app(engine: SumEngine) -> RunnerCalls:
    app = RunnerCalls()
    app.serve(executor(engine, 1, 4, accelerator="a GPU"), SharedInputsReader(INPUT_SPEC))
    return app


def test_calls_of_several_processes_form_batches_and_a_failing_input_fails_its_own_call_only(
    app: RunnerCalls, engine: SumEngine
) -> None:
    async def together() -> list[Answer]:
        memories = [SharedInputs(INPUT_SPEC, calls=1, max_batch_size=2) for _ in range(4)]
        with (
            memories[0].holding(filled(2, 1)) as first,
            memories[1].holding(filled(2, 2)) as second,
            memories[2].holding(filled(1, 255)) as failing,
            memories[3].holding(filled(1, 3)) as last,
        ):
            bodies = (json.dumps(place).encode() for place in (first, second, failing, last))
            return await asyncio.gather(*(call(app, data) for data in bodies))

    answers = asyncio.run(together())

    assert answers == [
        (200, [[6, -6]] * 2),
        (200, [[12, -12]] * 2),
        (500, []),
        (200, [[18, -18]]),
    ]
    assert engine.sizes[0] == 1  # the stream was free
    assert max(engine.sizes) > 2


def test_calls_before_the_start_and_from_the_network_are_refused(app: RunnerCalls) -> None:
    assert asyncio.run(call(RunnerCalls(), b"")) == (503, [])
    assert asyncio.run(call(app, bytes(24), ("10.0.0.1", 5000))) == (404, [])


def test_a_caller_that_disconnects_gets_no_answer(
    app: RunnerCalls, caplog: pytest.LogCaptureFixture
) -> None:
    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    sent = Mock()
    asyncio.run(app({"type": "http", "client": None}, receive, sent))

    assert not sent.mock_calls
    assert not caplog.records
