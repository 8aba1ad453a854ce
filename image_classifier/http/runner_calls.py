"""The runner's endpoint for API processes: the place of inputs in, logits out.

`bentoml_compat.runner_exchange` explains why this is not a BentoML API.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from image_classifier.http.schemas import INTERNAL_ERROR
from image_classifier.inference.batcher import Batcher
from image_classifier.inference.executor import Executor
from image_classifier.inference.runner import LocalRunner
from image_classifier.inference.shared_inputs import Place, SharedInputsReader
from image_classifier.logs import ErrorLog

PATH = "/logits"


class RunnerCalls:
    """An ASGI application that computes the logits of inputs in shared memory.

    The body is a `Place` as JSON, the answer float32 (n, classes) as bytes. Inputs of all API
    processes are batched together, see `Batcher`. Answers 503 before `serve` is called, and 404 to
    callers that do not come over a Unix socket: a place refers to a process of this machine.
    """

    def __init__(self) -> None:
        self._logits: Callable[[bytes], Awaitable[bytes]] | None = None
        self._error_log = ErrorLog()

    def serve(self, executor: Executor, reader: SharedInputsReader) -> None:
        """Start answering with an executor."""
        runner = LocalRunner(executor)
        batcher = Batcher(
            runner.run, max_batch_size=runner.max_batch_size, concurrency=runner.concurrency
        )

        async def logits(body: bytes) -> bytes:
            inputs = reader.read(Place(*json.loads(body)))
            answers = await asyncio.gather(*map(batcher.submit, inputs))
            return np.stack([answer.logits for answer in answers]).tobytes()

        self._logits = logits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:  # the API process has ended
            return
        status, answer = HTTPStatus.SERVICE_UNAVAILABLE, b""
        if scope.get("client") is not None:
            status = HTTPStatus.NOT_FOUND
        elif self._logits is not None:
            try:
                status, answer = HTTPStatus.OK, await self._logits(body)
            # Engines raise anything; the API process then retries the inputs one by one.
            except Exception as error:
                status = HTTPStatus.INTERNAL_SERVER_ERROR
                self._error_log.note(
                    request_id="of an API process",
                    status=status,
                    code=INTERNAL_ERROR,
                    message=f"{len(body)} bytes",
                    cause=error,
                )
        await Response(answer, status)(scope, receive, send)
