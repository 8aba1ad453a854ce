"""The edge without a server: what it passes on, a slow body, a bug, a client that leaves."""

import asyncio
import json
from typing import Any

import pytest

from image_classifier.http import app as edge
from image_classifier.http.app import Edge
from image_classifier.inference.batcher import Answer
from tests.web.fakes import ANSWER, Connection, Service

BODIES_BYTES = 500


async def passed_on(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "passed on", "path": scope.get("path")})


def edge_of(service: Service) -> Edge:
    return Edge(
        passed_on, service=lambda: service, max_body_bytes=1_000, max_bodies_bytes=BODIES_BYTES
    )


def ask(
    service: Service, connection: Connection, path: str = "/classify", method: str = "POST"
) -> Connection:
    ask_together(service, [connection], path, method)
    return connection


def ask_together(
    service: Service,
    connections: list[Connection],
    path: str = "/classify",
    method: str = "POST",
) -> None:
    app = edge_of(service)
    scope = {"type": "http", "path": path, "method": method, "headers": [], "query_string": b""}

    async def within_time() -> None:
        async with asyncio.timeout(60):
            await asyncio.gather(*(app(scope, one.receive, one.send) for one in connections))

    asyncio.run(within_time())


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

    assert connection.status == 408
    assert connection.body["error"]["code"] == "body_too_slow"
    assert service.metrics.outcomes == ["body_too_slow"]


def test_bodies_that_are_received_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "BODY_TIMEOUT_S", 0.1)
    part = body(bytes(BODIES_BYTES // 2), more=True)

    slow = [Connection(part), Connection(part)]  # they never end
    late = Connection(body(b"i"))
    ask_together(Service(), [*slow, late])

    assert [one.status for one in slow] == [408, 408]
    assert late.status == 429
    assert late.body["error"]["code"] == "overloaded"


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
    app = edge_of(Service())

    asyncio.run(app({"type": "websocket", "path": "/"}, connection.receive, connection.send))

    assert connection.sent == [{"type": "websocket.close"}]
