"""Reading a body within its limit, sending an answer, without a server."""

import asyncio
import json
from typing import Any

import pytest

from errors import BodyTooLarge
from web.messages import ClientGone, header, read_body, send_json


def scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "headers": list(headers)}


def body_of(messages: list[dict[str, Any]], max_bytes: int, *headers: tuple[bytes, bytes]) -> bytes:
    """Read from a connection that says `messages` and then fails the test."""
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(waiting)

    return asyncio.run(read_body(scope(*headers), receive, max_bytes))


def chunk(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


def test_a_body_in_pieces_is_put_together_in_order() -> None:
    pieces = [chunk(b"ab"), chunk(b""), chunk(b"cd"), chunk(b"e", more=False)]

    assert body_of(pieces, 5) == b"abcde"


def test_a_message_without_body_is_an_empty_body() -> None:
    assert body_of([{"type": "http.request"}], 5) == b""


def test_a_body_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    assert body_of([chunk(b"abc"), chunk(b"de", more=False)], 5) == b"abcde"
    with pytest.raises(BodyTooLarge, match="more than 5 bytes"):
        body_of([chunk(b"abc"), chunk(b"def", more=True)], 5)


def test_a_declared_size_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(BodyTooLarge, match="the body has 6 bytes, the limit is 5"):
        body_of([], 5, (b"content-length", b"6"))


def test_a_declared_size_is_no_promise() -> None:
    with pytest.raises(BodyTooLarge, match="more than 5 bytes"):
        body_of([chunk(b"abcdef", more=False)], 5, (b"content-length", b"1"))


def test_a_client_that_leaves_within_its_body_is_gone() -> None:
    with pytest.raises(ClientGone):
        body_of([chunk(b"abc"), {"type": "http.disconnect"}], 5)


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
