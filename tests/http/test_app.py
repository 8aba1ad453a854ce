"""The application without a server: answers, refusals, bugs, metrics."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from fastapi import HTTPException

from image_classifier.http import uploads
from image_classifier.http.schemas import ERRORS
from image_classifier.inference.batcher import Answer
from image_classifier.logs import ErrorLog
from tests.http.fakes import (
    LOCK,
    StubClassifier,
    app_of,
    error_of,
    in_parts,
    outcomes,
    request,
    scope_of,
    send,
)

CLASSIFY = ("POST", "/classify")


def test_an_answer_is_rendered_counted_and_timed() -> None:
    app = app_of(StubClassifier())
    before = outcomes(app)

    response = send(app, *CLASSIFY, content=b"image", headers={"X-Request-Id": "my-id.7"})

    assert response.status_code == 200
    assert response.json() == {
        "predictions": [{"label": "seven", "class_id": 7, "probability": 0.75}],
        "model": {"tag": LOCK.tag, "digest": LOCK.manifest_sha256},
        "request_id": "my-id.7",
    }
    assert response.headers["content-type"] == "application/json"
    assert response.headers["server-timing"] == "decode;dur=1.50, queue;dur=0.25, infer;dur=2.00"
    assert response.headers["x-request-id"] == "my-id.7"
    # Every outcome starts at 0, so that `rate()` sees the first burst.
    assert before == dict.fromkeys(("ok", "client_gone", *ERRORS), 0)
    assert outcomes(app) == before | {"ok": 1}


def test_an_overloaded_service_refuses_before_the_body_is_read(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("image_classifier.http.app.error_log", ErrorLog())  # not throttled
    classifier = StubClassifier()
    classifier.full = True
    app, headers = app_of(classifier), {"X-Request-Id": "mine"}

    response = send(app, *CLASSIFY, content=in_parts(ends=False), headers=headers)
    early = app.state.refuse(scope_of("/classify", "PUT", headers))

    assert error_of(response) == (429, "overloaded")
    assert response.headers["retry-after"] == "1"
    assert "2 in flight" not in response.text
    assert "429 overloaded" in caplog.text
    assert "(2 in flight are allowed)" in caplog.text
    # A server that asks beforehand gets the same answer, for this path only.
    assert early.status_code == 429
    assert json.loads(early.body) == response.json()
    assert sorted(early.raw_headers) == sorted(response.headers.raw)
    assert (outcomes(app)["overloaded"], outcomes(app)["ok"]) == (2, 0)
    assert app.state.refuse(scope_of("/model", "GET")) is None
    assert app.state.refuse(scope_of("/classify", "GET")) is None
    classifier.full = False
    assert app.state.refuse(scope_of("/classify", "POST")) is None


def test_the_clients_timeout_covers_the_body_and_the_answer() -> None:
    cancelled = []

    async def hang() -> Answer:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        raise AssertionError

    def answer(timeout_ms: str, **options: Any) -> httpx.Response:
        app = app_of(StubClassifier(options.pop("act", None)))
        headers = {"X-Request-Timeout-Ms": timeout_ms}
        return send(app, *CLASSIFY, headers=headers, **options)

    assert answer("60000", content=b"image").status_code == 200
    slow_body = answer("20", content=in_parts(b"image", ends=False))
    assert error_of(slow_body) == (504, "deadline_exceeded")
    slow_answer = answer("20", act=hang, content=b"image")
    assert error_of(slow_answer) == (504, "deadline_exceeded")
    assert cancelled
    for invalid in ("0", "soon"):
        refused = answer(invalid, content=b"image")
        assert refused.status_code == 400
        assert "X-Request-Timeout-Ms" in refused.json()["error"]["message"]


def test_unfinished_bodies_time_out_and_share_a_memory_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploads, "BODY_TIMEOUT_S", 0.1)
    app = app_of(StubClassifier(), max_bodies_bytes=2_000)

    async def together() -> list[httpx.Response]:
        slow = [request(app, *CLASSIFY, content=in_parts(bytes(1_000), ends=False)) for _ in "12"]
        late = request(app, *CLASSIFY, content=in_parts(b"i", delay_s=0.01))
        return await asyncio.gather(*slow, late)

    answers = [error_of(response) for response in asyncio.run(together())]

    assert answers == [*[(408, "body_too_slow")] * 2, (429, "overloaded")]


def test_a_bug_is_a_500_without_details_and_one_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug() -> Answer:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr("image_classifier.http.app.error_log", ErrorLog())
    app = app_of(StubClassifier(bug))

    response, _ = (send(app, *CLASSIFY, content=b"image") for _ in range(2))

    assert error_of(response) == (500, "internal_error")
    assert "secret" not in response.text
    assert response.json()["error"]["request_id"] in caplog.text
    assert caplog.text.count("RuntimeError: /secret/path") == 1
    assert outcomes(app)["internal_error"] == 2


def test_a_request_id_is_returned_unless_it_is_hostile() -> None:
    app = app_of(StubClassifier())

    def returned(request_id: str) -> str:
        response = send(app, "GET", "/nope", headers={"X-Request-Id": request_id.encode()})
        assert response.json()["error"]["request_id"] == response.headers["x-request-id"]
        return response.headers["x-request-id"]

    for accepted in ("a" * 128, "trace-1.B_2"):
        assert returned(accepted) == accepted
    for hostile in ("a" * 129, "", "two words", "<script>", "{}", "ünï"):
        assert re.fullmatch(r"[0-9a-f]{32}", returned(hostile))


def test_large_and_encoded_bodies_are_refused_with_the_accepted_encoding() -> None:
    app = app_of(StubClassifier(), max_body_bytes=2_000)

    large = send(app, *CLASSIFY, content=bytes(2_001))
    encoded = send(app, *CLASSIFY, headers={"Content-Encoding": "br"})

    assert error_of(large) == (413, "body_too_large")
    assert error_of(encoded) == (415, "unsupported_media_type")
    assert encoded.headers["accept-encoding"] == "identity"


def test_probes_scrapes_and_files_are_not_counted() -> None:
    app = app_of(StubClassifier())
    before = outcomes(app)

    for path in ("/readyz", "/livez", "/metrics", "/static_content/x.css", "/ui/app.js"):
        send(app, "GET", path)

    assert outcomes(app) == before


def test_an_unreachable_model_is_logged_but_not_for_each_readiness_probe(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("image_classifier.http.app.error_log", ErrorLog())
    app = app_of(StubClassifier())

    async def unreachable() -> None:
        raise HTTPException(503)

    for path in ("/readyz", "/other"):
        app.add_api_route(path, unreachable)
        assert error_of(send(app, "GET", path)) == (503, "not_ready")

    (line,) = caplog.messages
    assert "503 not_ready: the model cannot be reached" in line


def test_a_slow_upload_is_not_a_slow_answer() -> None:
    app = app_of(StubClassifier())

    send(app, *CLASSIFY, content=in_parts(b"image", delay_s=0.1))

    metrics = send(app, "GET", "/metrics").text
    assert 'classifier_stage_seconds_bucket{le="0.075",stage="total"} 1.0' in metrics
