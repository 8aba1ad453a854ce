"""The edge without a server: what it passes on, a slow body, a bug, a client that leaves."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from errors import NotReady, Overloaded
from inference.classifier import Answer
from inference.pipeline import StagedInference
from inference.predictions import Prediction
from web import edge
from web.edge import Edge

ANSWER = Answer(
    predictions=(Prediction(label="seven", class_id=7, probability=0.75),),
    inference=StagedInference(
        logits=np.zeros(10, np.float32), decode_ms=1.5, queue_ms=0.25, infer_ms=2.0, batch_size=1
    ),
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

    def check_admission(self) -> None:
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


async def passed_on(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "passed on", "path": scope.get("path")})


def ask(
    service: Service, connection: Connection, path: str = "/classify", method: str = "POST"
) -> Connection:
    app = Edge(passed_on, service=lambda: service, max_body_bytes=1_000)
    scope = {
        "type": "http",
        "path": path,
        "method": method,
        "headers": [],
        "query_string": b"",
    }

    async def within_time() -> None:
        async with asyncio.timeout(10):
            await app(scope, connection.receive, connection.send)

    asyncio.run(within_time())
    return connection


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


def test_an_answer_is_rendered_counted_and_timed() -> None:
    service = Service()

    connection = ask(service, Connection(body(b"image")))

    assert connection.status == 200
    assert connection.body["predictions"] == [
        {"label": "seven", "class_id": 7, "probability": 0.75}
    ]
    headers = dict(connection.sent[0]["headers"])
    assert headers[b"server-timing"] == b"decode;dur=1.50, queue;dur=0.25, infer;dur=2.00"
    assert service.metrics.outcomes == ["ok"]
    assert service.metrics.classifications == 1


def test_a_request_that_is_refused_for_its_time_is_refused_before_its_body_is_read() -> None:
    service = Service()
    service.classifier.full = True

    connection = ask(service, Connection())  # whose body never comes

    assert connection.status == 429
    assert connection.body["error"]["code"] == "overloaded"
    assert service.metrics.outcomes == ["overloaded"]


def test_a_body_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "BODY_TIMEOUT_S", 0.01)
    service = Service()

    connection = ask(service, Connection(body(b"ima", more=True)))

    assert connection.status == 504
    assert connection.body["error"]["code"] == "deadline_exceeded"
    assert service.metrics.outcomes == ["deadline_exceeded"]


def test_a_bug_is_a_500_that_says_nothing_and_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def bug() -> Answer:
        raise RuntimeError("/secret/path")

    service = Service(bug)

    connection = ask(service, Connection(body(b"image")))

    assert connection.status == 500
    assert connection.body["error"]["code"] == "internal_error"
    assert "secret" not in json.dumps(connection.body)
    assert connection.body["error"]["request_id"] in caplog.text
    assert "/secret/path" in caplog.text
    assert service.metrics.outcomes == ["internal_error"]


def test_a_client_that_leaves_cancels_its_work_and_is_not_answered() -> None:
    cancelled = []

    async def endless() -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)
        return ANSWER

    service = Service(endless)

    connection = ask(service, Connection(body(b"image"), {"type": "http.disconnect"}))

    assert cancelled == [True]
    assert connection.sent == []
    assert service.metrics.outcomes == ["client_gone"]


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_a_readiness_probe_tells_and_is_not_counted(ready: bool, status: int) -> None:
    service = Service()
    service.ready = ready

    connection = ask(service, Connection(), "/readyz", "GET")

    assert connection.status == status
    assert service.metrics.begun == 0


@pytest.mark.parametrize("path", ["/livez", "/metrics", "/static_content/swagger-ui.css"])
def test_what_bentoml_answers_is_passed_on(path: str) -> None:
    connection = ask(Service(), Connection(), path, "GET")

    assert connection.sent == [{"type": "passed on", "path": path}]


@pytest.mark.parametrize("path", ["/static_content/x", "/classify/submit", "/infer", "//metrics"])
def test_what_nobody_answers_is_not_passed_on(path: str) -> None:
    assert ask(Service(), Connection(), path, "GET").status == 404


def test_a_websocket_is_closed() -> None:
    connection = Connection()
    app = Edge(passed_on, service=Service, max_body_bytes=1)

    asyncio.run(app({"type": "websocket", "path": "/"}, connection.receive, connection.send))

    assert connection.sent == [{"type": "websocket.close"}]
