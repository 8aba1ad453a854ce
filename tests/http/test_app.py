"""The application without a server: answers, refusals, bugs, clients that leave, metrics."""

import asyncio
import json

import pytest
from starlette.exceptions import HTTPException

from image_classifier.http import uploads
from image_classifier.http.schemas import ERRORS
from image_classifier.inference.batcher import Answer
from tests.http.fakes import (
    ANSWER,
    Answering,
    Connection,
    SlowConnection,
    app_of,
    ask,
    ask_together,
    body,
    outcomes,
)

MAX_BODIES_BYTES = 2_000


def test_an_answer_is_rendered_counted_and_timed() -> None:
    app = app_of(Answering())

    connection = ask(app, Connection(body(b"image")))

    assert connection.status == 200
    assert connection.body["predictions"] == [
        {"label": "seven", "class_id": 7, "probability": 0.75}
    ]
    assert connection.headers["server-timing"] == (
        "decode;dur=1.50, queue;dur=0.25, infer;dur=2.00"
    )
    assert connection.headers["x-request-id"] == connection.body["request_id"]
    assert outcomes(app) == {"ok": 1}


def test_an_overloaded_service_refuses_before_the_body_is_read() -> None:
    classifier = Answering()
    classifier.full = True
    app = app_of(classifier)

    connection = ask(app, Connection())  # whose body never comes

    assert connection.status == 429
    assert connection.body["error"]["code"] == "overloaded"
    assert connection.headers["retry-after"] == "1"
    assert outcomes(app) == {"overloaded": 1}


@pytest.mark.parametrize(("value", "timeout_ms"), [("60000", 60_000), ("1", None)])
def test_the_time_a_client_waits_is_what_is_left_of_it_after_the_body(
    value: str, timeout_ms: int | None
) -> None:
    classifier = Answering()
    app = app_of(classifier)
    headers = {"X-Request-Timeout-Ms": value}

    connection = ask(app, SlowConnection(body(b"image")), headers=headers)

    if timeout_ms is None:  # none is left
        assert connection.status == 504
        assert connection.body["error"]["code"] == "deadline_exceeded"
        assert classifier.seen == []
    else:
        assert connection.status == 200
        (left_ms,) = classifier.timeouts_ms
        assert left_ms is not None
        assert 0 < left_ms <= timeout_ms - SlowConnection.DELAY_S * 1e3


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "soon", ""])
def test_a_wrong_time_limit_of_a_client_is_refused(value: str) -> None:
    connection = ask(app_of(Answering()), Connection(), headers={"X-Request-Timeout-Ms": value})

    assert connection.status == 400
    assert "X-Request-Timeout-Ms" in connection.body["error"]["message"]


def test_a_body_that_does_not_end_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "BODY_TIMEOUT_S", 0.01)
    app = app_of(Answering())

    connection = ask(app, Connection(body(b"ima", more=True)))

    assert connection.status == 408
    assert connection.body["error"]["code"] == "body_too_slow"
    assert outcomes(app) == {"body_too_slow": 1}


def test_bodies_that_are_being_received_are_bounded_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploads, "BODY_TIMEOUT_S", 0.1)
    app = app_of(Answering(), max_bodies_bytes=MAX_BODIES_BYTES)
    half = body(bytes(MAX_BODIES_BYTES // 2), more=True)

    *slow, late = ask_together(
        app, [Connection(half), Connection(half), Connection(body(b"i"))]
    )  # the first two never end

    assert [connection.status for connection in slow] == [408, 408]
    assert late.status == 429
    assert late.body["error"]["code"] == "overloaded"


def test_a_bug_is_a_500_without_details_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def bug() -> Answer:
        raise RuntimeError("/secret/path")

    app = app_of(Answering(bug))

    connection = ask(app, Connection(body(b"image")))

    assert connection.status == 500
    assert connection.body["error"]["code"] == "internal_error"
    assert "secret" not in json.dumps(connection.body)
    assert connection.body["error"]["request_id"] in caplog.text
    assert "/secret/path" in caplog.text
    assert outcomes(app) == {"internal_error": 1}


def test_a_client_that_leaves_cancels_its_work_and_is_not_answered() -> None:
    cancelled = []

    async def endless() -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)
        return ANSWER

    app = app_of(Answering(endless))

    connection = ask(app, Connection(body(b"image"), {"type": "http.disconnect"}))

    assert cancelled == [True]
    assert connection.sent == []
    assert outcomes(app) == {"client_gone": 1}


def test_a_client_that_leaves_within_its_body_is_not_answered() -> None:
    classifier = Answering()
    app = app_of(classifier)

    connection = ask(app, Connection(body(b"ima", more=True), {"type": "http.disconnect"}))

    assert classifier.seen == []
    assert connection.sent == []
    assert outcomes(app) == {"client_gone": 1}


@pytest.mark.parametrize(
    ("path", "method", "status", "code", "allow"),
    [
        ("/nope", "GET", 404, "not_found", None),
        ("/classify/", "POST", 404, "not_found", None),
        ("/classify", "GET", 405, "method_not_allowed", "POST, PUT"),
        ("/model", "PUT", 405, "method_not_allowed", "GET, HEAD"),
    ],
)
def test_a_wrong_path_or_method_is_answered_in_the_one_shape(
    path: str, method: str, status: int, code: str, allow: str | None
) -> None:
    connection = ask(app_of(Answering()), Connection(), path, method)

    assert connection.status == status
    assert connection.body["error"]["code"] == code
    assert connection.headers.get("allow") == allow


def test_an_unready_service_of_bentoml_is_answered_in_the_one_shape() -> None:
    app = app_of(Answering())

    @app.get("/probe")
    async def probe() -> None:  # as BentoML's /readyz
        raise HTTPException(503, "Service is not ready because .__is_ready__() returns False.")

    connection = ask(app, Connection(), "/probe", "GET")

    assert connection.status == 503
    assert connection.body["error"]["code"] == "not_ready"
    assert connection.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", ["/readyz", "/livez", "/metrics", "/static_content/x.css"])
def test_probes_scrapes_and_files_are_not_counted(path: str) -> None:
    app = app_of(Answering())

    ask(app, Connection(), path, "GET")

    assert outcomes(app) == {}


def test_every_outcome_is_counted_from_zero() -> None:
    connection = Connection()

    ask(app_of(Answering()), connection, "/metrics", "GET")

    text = connection.sent[1]["body"].decode()
    for outcome in ("ok", "client_gone", *ERRORS):
        assert f'classifier_requests_total{{outcome="{outcome}"}} 0.0' in text


def test_a_websocket_is_closed() -> None:
    connection = Connection()

    asyncio.run(
        app_of(Answering())(
            {"type": "websocket", "path": "/", "headers": []}, connection.receive, connection.send
        )
    )

    assert [message["type"] for message in connection.sent] == ["websocket.close"]
