"""A service and a connection for the edge, without a model and without a socket."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from image_classifier.errors import NotReady, Overloaded
from image_classifier.inference.batcher import Answer
from image_classifier.inference.predictions import Prediction

ANSWER = Answer(
    predictions=(Prediction(label="seven", class_id=7, probability=0.75),),
    logits=np.zeros(10, np.float32),
    decode_ms=1.5,
    queue_ms=0.25,
    infer_ms=2.0,
    batch_size=1,
)


class Metrics:
    """Stands in for Prometheus, which takes each series once a process."""

    def __init__(self) -> None:
        self.begun = 0
        self.outcomes: list[str] = []
        self.classifications = 0

    def begin(self) -> None:
        self.begun += 1

    def end(self, outcome: str) -> None:
        self.outcomes.append(outcome)

    def classified(self, answer: Answer, total_s: float) -> None:
        self.classifications += 1


class Answering:
    """A classifier that gives one answer, or does what a test says."""

    def __init__(self, act: Callable[[], Awaitable[Answer]] | None) -> None:
        self.full = False
        self._act = act

    def refuse_if_overloaded(self) -> None:
        if self.full:
            raise Overloaded("the service is at its capacity; try again later")

    async def classify(self, image: bytes, top_k: int | None) -> Answer:
        return ANSWER if self._act is None else await self._act()


class Service:
    """A service around such a classifier."""

    def __init__(self, act: Callable[[], Awaitable[Answer]] | None = None) -> None:
        self.metrics: Any = Metrics()
        self.classifier: Any = Answering(act)
        self.ready = True
        self.model_reference = {"tag": "t:0", "digest": "d"}

    async def check_ready(self) -> None:
        if not self.ready:
            raise NotReady("the model cannot be reached; try again")

    async def model_card(self) -> dict[str, Any]:
        return {"name": "digits"}

    def openapi(self) -> dict[str, Any]:
        return {"openapi": "3.0.3"}


class Connection:
    """One request: what it receives, what was sent to it."""

    def __init__(self, *received: dict[str, Any]) -> None:
        self.sent: list[Any] = []
        self._received = list(received)

    async def receive(self) -> dict[str, Any]:
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
    def body(self) -> Any:
        return json.loads(self.sent[1]["body"])
