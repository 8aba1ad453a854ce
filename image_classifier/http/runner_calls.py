"""What the runner's process answers to API processes: bytes in, bytes out.

Past BentoML's APIs: `bentoml_compat.runner_exchange` says why.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from image_classifier.inference.batcher import Batcher
from image_classifier.inference.executor import Executor
from image_classifier.inference.runner import LocalRunner
from image_classifier.inference.shared_inputs import SharedInputsReader
from image_classifier.logs import logger

PATH = "/logits"


class RunnerCalls:
    """An ASGI application that answers the places of inputs with their logits.

    A body is `Places`, int64 (n, 3), as bytes; its answer float32 (n, classes). The inputs of all
    API processes form batches together, see `Batcher`. Before `serve` it answers 503; to what does
    not come over a socket of this machine's file system, 404: places name processes.
    """

    def __init__(self) -> None:
        self._logits: Callable[[bytes], Awaitable[bytes]] | None = None

    def serve(self, executor: Executor, reader: SharedInputsReader) -> None:
        """Answer with an executor from now on."""
        runner = LocalRunner(executor)
        batcher = Batcher(
            runner.run, max_batch_size=runner.max_batch_size, concurrency=runner.concurrency
        )

        async def logits(body: bytes) -> bytes:
            inputs = reader.read(np.frombuffer(body, np.int64).reshape(-1, 3))
            answers = await asyncio.gather(*map(batcher.submit, inputs))
            return np.stack([answer.logits for answer in answers]).tobytes()

        self._logits = logits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:  # the caller has ended
            return
        status, answer = HTTPStatus.SERVICE_UNAVAILABLE, b""
        if scope.get("client") is not None:
            status = HTTPStatus.NOT_FOUND
        elif self._logits is not None:
            try:
                status, answer = HTTPStatus.OK, await self._logits(body)
            # Whatever an engine raises: the API process runs the inputs again, each alone.
            except Exception:
                logger.exception("a call of %d bytes failed", len(body))
                status = HTTPStatus.INTERNAL_SERVER_ERROR
        await Response(answer, status)(scope, receive, send)
