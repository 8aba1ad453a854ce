"""Headers and sending an answer, without a server."""

import asyncio
import json
from typing import Any

from image_classifier.http.messages import header, send_json


def scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "headers": list(headers)}


def test_the_first_of_two_headers_counts() -> None:
    given = scope((b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3"))

    assert header(given, b"x-a") == "1"
    assert header(given, b"x-c") is None


def test_bytes_of_a_header_that_are_no_ascii_do_not_fail() -> None:
    assert header(scope((b"x-a", b"\xff\xfe")), b"x-a") == "\u00ff\u00fe"


def test_json_is_sent_in_one_piece_with_its_length() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(send_json(send, 422, {"label": "na\u00efve", "p": 0.5}, {"x-request-id": "7"}))

    start, body = sent
    assert start["status"] == 422
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"content-length"] == str(len(body["body"])).encode()
    assert headers[b"x-request-id"] == b"7"
    assert json.loads(body["body"]) == {"label": "na\u00efve", "p": 0.5}
    assert body["body"] == '{"label":"na\u00efve","p":0.5}'.encode()
    assert not body.get("more_body")
