"""An application around a stand-in classifier, and a connection to it, without a socket."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from image_classifier.artifact.manifest import Outputs
from image_classifier.artifact.store import ModelLock
from image_classifier.errors import Overloaded
from image_classifier.http.app import create_app
from image_classifier.http.metrics import RequestMetrics
from image_classifier.inference.batcher import Answer
from image_classifier.inference.predictions import Prediction
from image_classifier.settings import Settings

LOCK = ModelLock(tag="digits:0123456789abcdef", manifest_sha256="1" * 64, evidence_sha256="2" * 64)
ANSWER = Answer(
    predictions=(Prediction(label="seven", class_id=7, probability=0.75),),
    logits=np.zeros(10, np.float32),
    decode_ms=1.5,
    queue_ms=0.25,
    infer_ms=2.0,
    batch_size=1,
)


class Answering:
    """A classifier that gives one answer, or does what a test says."""

    num_classes = 10
    outputs = Outputs()

    def __init__(self, act: Callable[[], Awaitable[Answer]] | None = None) -> None:
        self.full = False
        self.seen: list[tuple[bytes, int | None]] = []
        self.timeouts_ms: list[float | None] = []
        self._act = act

    def refuse_if_overloaded(self) -> None:
        if self.full:
            error = Overloaded("the service is at its capacity; try again later")
            error.numbers = "2 in flight are allowed"
            raise error

    async def classify(
        self, image: bytes, top_k: int | None, timeout_ms: float | None = None
    ) -> Answer:
        self.seen.append((image, top_k))
        self.timeouts_ms.append(timeout_ms)
        return ANSWER if self._act is None else await self._act()


def app_of(classifier: Answering, **settings: Any) -> FastAPI:
    app = create_app(Settings(**settings), LOCK, RequestMetrics())
    app.state.classifier = classifier
    return app


class Connection:
    """One request: what it receives, each after `delay_s`, and what was sent to it."""

    def __init__(self, *received: dict[str, Any], delay_s: float = 0) -> None:
        self.sent: list[Any] = []
        self._received = list(received)
        self._delay_s = delay_s

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(self._delay_s)
        if not self._received:
            await asyncio.Event().wait()  # a client that waits
        return self._received.pop(0)

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> Any:
        return json.loads(self.sent[1]["body"])

    @property
    def code(self) -> str:
        """Of the error that was sent."""
        return str(self.body["error"]["code"])


def ask(
    app: FastAPI,
    *connections: Connection,
    path: str = "/classify",
    method: str = "POST",
    headers: dict[str, str] | None = None,
) -> Connection:
    """Send requests together; returns the connection of the last."""

    async def within_time() -> None:
        scopes = [scope_of(path, method, headers) for _ in connections]
        async with asyncio.timeout(60):
            pairs = zip(scopes, connections, strict=True)
            await asyncio.gather(*(app(scope, one.receive, one.send) for scope, one in pairs))

    asyncio.run(within_time())
    return connections[-1]


def send(app: Any, method: str, path: str, **sent: Any) -> httpx.Response:
    """Send one request to an ASGI application as a client would; `sent` as for httpx."""

    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **sent)

    return asyncio.run(request())


def scope_of(
    path: str, method: str, headers: dict[str, str] | None = None, query: str = ""
) -> dict[str, Any]:
    return {
        "type": "http",
        "path": path,
        "raw_path": path.encode(),
        "method": method,
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in (headers or {}).items()
        ],
        "query_string": query.encode(),
    }


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


def outcomes(app: FastAPI) -> dict[str, float]:
    """Counts of the outcomes, as /metrics has them."""
    text = ask(app, Connection(), path="/metrics", method="GET").sent[1]["body"].decode()
    found = re.findall(r'^classifier_requests_total\{outcome="(\w+)"\} (\S+)$', text, re.M)
    return {outcome: float(count) for outcome, count in found}
