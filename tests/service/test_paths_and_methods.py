"""Paths, methods, request ids and what is no HTTP at all."""

import re
from typing import Any

import pytest

from tests.imports import SAMPLES
from tests.service.errors_seen import INTERNALS, checked
from tests.service.server import Server, read_to_end

GOOD = (SAMPLES / "3-03.webp").read_bytes()


NOT_THERE: dict[str, tuple[str, ...]] = {
    "GET": (
        *("/nope", "/classify/../../etc/passwd", "/static_content/../bentoml.py"),
        *("/static_content/nope.css", "/static_content/"),
    ),
    "POST": ("/classify/", "/infer"),
}
NOT_ALLOWED: dict[str, tuple[str, ...]] = {
    "GET": ("/classify",),
    "DELETE": ("/classify", "/livez"),
    "OPTIONS": ("/classify",),
    "POST": ("/model", "/", "/metrics", "/readyz", "/static_content/swagger-ui.css"),
}


def test_a_wrong_path_or_method_has_the_same_shape(either: Server) -> None:
    for paths_of, status, code in [
        (NOT_THERE, 404, "not_found"),
        (NOT_ALLOWED, 405, "method_not_allowed"),
    ]:
        for method, paths in paths_of.items():
            for path in paths:
                checked(either.client.request(method, path), status, code)


def test_head_is_answered_without_a_body(embedded: Server) -> None:
    for path, status in {"/": 200, "/model": 200, "/livez": 200, "/classify": 405}.items():
        response = embedded.client.head(path)

        assert response.status_code == status
        assert response.content == b""


def test_a_request_id_comes_back_with_an_error_unless_it_is_hostile(embedded: Server) -> None:
    def request_id_of_error(given: Any) -> str:
        response = embedded.client.get("/nope", headers={"X-Request-Id": given})
        return str(checked(response, 404, "not_found")["request_id"])

    for given in ("a" * 128, "trace-1.B_2"):
        assert request_id_of_error(given) == given
    for hostile in ("a" * 129, "", "two words", "<script>", "{}", "ünï".encode("latin-1")):
        assert re.fullmatch(r"[0-9a-f]{32}", request_id_of_error(hostile))


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
