"""Paths, methods, request ids and what is no HTTP at all."""

import re
from typing import Any

import pytest

from tests.imports import SAMPLES
from tests.service.errors_seen import INTERNALS, checked
from tests.service.server import Server, read_to_end

GOOD = (SAMPLES / "3-03.webp").read_bytes()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "not_found"),
        ("POST", "/classify/", 404, "not_found"),
        ("GET", "/classify/../../etc/passwd", 404, "not_found"),
        ("GET", "/static_content/../bentoml.py", 404, "not_found"),
        ("GET", "/static_content/nope.css", 404, "not_found"),
        ("GET", "/static_content/", 404, "not_found"),
        ("POST", "/infer", 404, "not_found"),
        ("GET", "/classify", 405, "method_not_allowed"),
        ("DELETE", "/classify", 405, "method_not_allowed"),
        ("PATCH", "/classify", 405, "method_not_allowed"),
        ("OPTIONS", "/classify", 405, "method_not_allowed"),
        ("POST", "/model", 405, "method_not_allowed"),
        ("POST", "/", 405, "method_not_allowed"),
        ("POST", "/metrics", 405, "method_not_allowed"),
        ("POST", "/readyz", 405, "method_not_allowed"),
        ("DELETE", "/livez", 405, "method_not_allowed"),
    ],
)
def test_a_wrong_path_or_method_has_the_same_shape(
    either: Server, method: str, path: str, status: int, code: str
) -> None:
    checked(either.client.request(method, path), status, code)


@pytest.mark.parametrize(("path", "allowed"), [("/classify", "POST, PUT"), ("/model", "GET, HEAD")])
def test_a_wrong_method_is_told_the_right_ones(embedded: Server, path: str, allowed: str) -> None:
    assert embedded.client.delete(path).headers["allow"] == allowed


def test_head_is_answered_without_a_body(embedded: Server) -> None:
    for path, status in {"/": 200, "/model": 200, "/livez": 200, "/classify": 405}.items():
        response = embedded.client.head(path)

        assert response.status_code == status
        assert response.content == b""


@pytest.mark.parametrize("given", ["a" * 128, "trace-1.B_2"])
def test_a_request_id_comes_back_with_an_error(embedded: Server, given: str) -> None:
    response = embedded.client.get("/nope", headers={"X-Request-Id": given})

    assert checked(response, 404, "not_found")["request_id"] == given


@pytest.mark.parametrize(
    "given", ["a" * 129, "", "two words", "<script>", "a\tb", "{}", "ünï".encode("latin-1")]
)
def test_a_hostile_request_id_is_replaced(embedded: Server, given: str | bytes) -> None:
    headers: Any = {"X-Request-Id": given}

    error = checked(embedded.client.get("/nope", headers=headers), 404, "not_found")

    assert re.fullmatch(r"[0-9a-f]{32}", error["request_id"])


def test_bytes_that_are_no_http_end_their_connection_only(embedded: Server) -> None:
    answer = embedded.raw(b"\x16\x03\x01\x00\xa5 hello\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert not INTERNALS.search(answer.decode("latin-1"))
    assert embedded.client.get("/livez").status_code == 200


def test_a_websocket_is_not_there(embedded: Server) -> None:
    request = (
        b"GET /classify HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with embedded.connect() as connection:
        connection.sendall(request)
        answer = connection.recv(4_096)

    assert re.match(rb"HTTP/1.1 40[35] ", answer)


@pytest.mark.parametrize("value", [b"h2c", b"websocket"])
def test_the_file_of_a_request_with_an_upgrade_is_classified(
    embedded: Server, value: bytes
) -> None:
    head = b"PUT /classify HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: %s\r\n"

    answer = embedded.raw(head % value + b"Content-Length: %d\r\n\r\n%s" % (len(GOOD), GOOD))

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'{"label":"3","class_id":3,' in answer


def test_a_connection_serves_the_next_request_after_an_error(embedded: Server) -> None:
    bad = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\njust text"
    good = (
        b"POST /classify?top_k=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(GOOD), GOOD)
    )

    with embedded.connect() as connection:
        connection.sendall(bad + good)
        answers = read_to_end(connection)

    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"415", b"200"]
    assert b'{"label":"3","class_id":3,' in answers
