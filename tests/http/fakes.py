"""An application around a stand-in classifier, and requests to it without a socket."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
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


class StubClassifier:
    """A classifier that returns `ANSWER`, or what `act` returns."""

    num_classes = 10
    outputs = Outputs()

    def __init__(self, act: Callable[[], Awaitable[Answer]] | None = None) -> None:
        self.full = False
        self.calls: list[tuple[bytes, int | None]] = []
        self._act = act

    def refuse_if_overloaded(self) -> None:
        if self.full:
            error = Overloaded("the service is at its capacity; try again later")
            error.numbers = "2 in flight are allowed"
            raise error

    async def classify(self, image: bytes, top_k: int | None) -> Answer:
        self.calls.append((image, top_k))
        return ANSWER if self._act is None else await self._act()


def app_of(classifier: StubClassifier, **settings: Any) -> FastAPI:
    app = create_app(Settings(**settings), LOCK, RequestMetrics())
    app.state.classifier = classifier
    return app


async def request(
    app: Any, method: str, path: str, client: Any = ("127.0.0.1", 123), **options: Any
) -> httpx.Response:
    """Send a request to an ASGI application; `options` as for httpx."""
    transport = httpx.ASGITransport(app, client=client)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as session:
        return await session.request(method, path, **options)


def send(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    """As `request`, in an event loop of its own."""
    return asyncio.run(asyncio.wait_for(request(app, method, path, **options), 60))


async def in_parts(*parts: bytes, delay_s: float = 0, ends: bool = True) -> AsyncIterator[bytes]:
    """A body that arrives in parts, each after a delay, and perhaps never ends."""
    for part in parts:
        await asyncio.sleep(delay_s)
        yield part
    if not ends:
        await asyncio.Event().wait()


def error_of(response: httpx.Response) -> tuple[int, str]:
    """Return status and error code."""
    return response.status_code, response.json()["error"]["code"]


def scope_of(
    path: str, method: str, headers: dict[str, str] | None = None, query: str = ""
) -> dict[str, Any]:
    return {
        "type": "http",
        "path": path,
        "method": method,
        "headers": [
            (name.lower().encode(), value.encode()) for name, value in (headers or {}).items()
        ],
        "query_string": query.encode(),
    }


def outcomes(app: FastAPI) -> dict[str, float]:
    """Return the counts of request outcomes in /metrics."""
    text = send(app, "GET", "/metrics").text
    found = re.findall(r'^classifier_requests_total\{outcome="(\w+)"\} (\S+)$', text, re.M)
    return {outcome: float(count) for outcome, count in found}
