"""The application without a server: answers, refusals, bugs, clients that leave, metrics."""

import asyncio
import json
import re

import pytest

from image_classifier.http import uploads
from image_classifier.http.schemas import ERRORS
from image_classifier.inference.batcher import Answer
from image_classifier.logs import ErrorLog
from tests.http.fakes import (
    LOCK,
    Answering,
    Connection,
    app_of,
    ask,
    body,
    outcomes,
    scope_of,
)

MAX_BODIES_BYTES = 2_000


def test_an_answer_is_rendered_counted_and_timed() -> None:
    app = app_of(Answering())
    before = outcomes(app)

    connection = ask(app, Connection(body(b"image")), headers={"X-Request-Id": "my-id.7"})

    assert connection.status == 200
    assert connection.body == {
        "predictions": [{"label": "seven", "class_id": 7, "probability": 0.75}],
        "model": {"tag": LOCK.tag, "digest": LOCK.manifest_sha256},
        "request_id": "my-id.7",
    }
    assert connection.headers["content-type"] == "application/json"
    assert connection.headers["server-timing"] == (
        "decode;dur=1.50, queue;dur=0.25, infer;dur=2.00"
    )
    assert connection.headers["x-request-id"] == "my-id.7"
    # Every outcome is counted from 0, so that the first burst is a rise.
    assert before == dict.fromkeys(("ok", "client_gone", *ERRORS), 0)
    assert outcomes(app) == before | {"ok": 1}


def test_an_overloaded_service_refuses_before_the_body_is_read(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("image_classifier.http.app.error_log", ErrorLog())  # no line before it
    classifier = Answering()
    classifier.full = True
    app = app_of(classifier)

    connection = ask(app, Connection())  # whose body never comes

    assert (connection.status, connection.code) == (429, "overloaded")
    assert connection.headers["retry-after"] == "1"
    assert "2 in flight" not in json.dumps(connection.body)
    assert "429 overloaded" in caplog.text
    assert "(2 in flight are allowed)" in caplog.text
    assert outcomes(app)["overloaded"] == 1

    # A server that asks beforehand is told the same, of this path alone.
    given = {"X-Request-Id": "mine"}
    asked = ask(app, Connection(), headers=given)
    early = app.state.refuse(scope_of("/classify", "PUT", given))
    assert early.status_code == 429
    assert json.loads(early.body) == asked.body
    assert sorted(early.raw_headers) == sorted(asked.sent[0]["headers"])
    assert outcomes(app)["overloaded"] == 3
    assert outcomes(app)["ok"] == 0
    assert app.state.refuse(scope_of("/model", "GET")) is None
    assert app.state.refuse(scope_of("/classify", "GET")) is None
    classifier.full = False
    assert app.state.refuse(scope_of("/classify", "POST")) is None


def test_the_time_a_client_waits_is_what_is_left_of_it_after_the_body() -> None:
    classifier = Answering()
    app = app_of(classifier)

    for limit_ms in ("60000", "1"):
        slow = Connection(body(b"image"), delay_s=0.02)
        connection = ask(app, slow, headers={"X-Request-Timeout-Ms": limit_ms})

    (left_ms,) = classifier.timeouts_ms  # of the first; none was left of the second
    assert left_ms is not None
    assert 0 < left_ms <= 60_000 - 20
    assert (connection.status, connection.code) == (504, "deadline_exceeded")


@pytest.mark.parametrize("value", ["0", "soon"])
def test_a_wrong_time_limit_of_a_client_is_refused(value: str) -> None:
    connection = ask(app_of(Answering()), Connection(), headers={"X-Request-Timeout-Ms": value})

    assert connection.status == 400
    assert "X-Request-Timeout-Ms" in connection.body["error"]["message"]


def test_bodies_that_do_not_end_are_aborted_and_bounded_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploads, "BODY_TIMEOUT_S", 0.1)
    app = app_of(Answering(), max_bodies_bytes=MAX_BODIES_BYTES)
    slow = [Connection(body(bytes(MAX_BODIES_BYTES // 2), more=True)) for _ in range(2)]

    late = ask(app, *slow, Connection(body(b"i")))

    assert [(one.status, one.code) for one in slow] == [(408, "body_too_slow")] * 2
    assert (late.status, late.code) == (429, "overloaded")


def test_a_bug_is_a_500_without_details_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def bug() -> Answer:
        raise RuntimeError("/secret/path")

    app = app_of(Answering(bug))

    connection = ask(app, Connection(body(b"image")))

    assert (connection.status, connection.code) == (500, "internal_error")
    assert "secret" not in json.dumps(connection.body)
    assert connection.body["error"]["request_id"] in caplog.text
    assert "/secret/path" in caplog.text
    assert outcomes(app)["internal_error"] == 1


def test_a_request_id_comes_back_unless_it_is_hostile() -> None:
    app = app_of(Answering())

    def request_id_of_error(given: str) -> str:
        answer = ask(app, Connection(), path="/nope", headers={"X-Request-Id": given})
        assert answer.body["error"]["request_id"] == answer.headers["x-request-id"]
        return answer.headers["x-request-id"]

    for given in ("a" * 128, "trace-1.B_2"):
        assert request_id_of_error(given) == given
    for hostile in ("a" * 129, "", "two words", "<script>", "{}", "ünï"):
        assert re.fullmatch(r"[0-9a-f]{32}", request_id_of_error(hostile))


def test_a_refused_encoding_is_told_the_one_that_is_accepted() -> None:
    connection = ask(app_of(Answering()), Connection(), headers={"Content-Encoding": "br"})

    assert (connection.status, connection.code) == (415, "unsupported_media_type")
    assert connection.headers["accept-encoding"] == "identity"


def test_probes_scrapes_and_files_are_not_counted() -> None:
    app = app_of(Answering())
    before = outcomes(app)

    for path in ("/readyz", "/livez", "/metrics", "/static_content/x.css", "/ui/app.js"):
        ask(app, Connection(), path=path, method="GET")

    assert outcomes(app) == before


def test_a_websocket_is_closed() -> None:
    connection = Connection()
    scope = {"type": "websocket", "path": "/", "headers": []}

    asyncio.run(app_of(Answering())(scope, connection.receive, connection.send))

    assert [message["type"] for message in connection.sent] == ["websocket.close"]
