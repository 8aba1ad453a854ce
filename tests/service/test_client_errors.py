"""What a client is told that sent something wrong, and that its neighbours do not notice."""

import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.imports import PATIENCE_S, SAMPLES
from tests.service.answers import assert_close
from tests.service.errors_seen import checked
from tests.service.server import Server, read_answer

GOOD = (SAMPLES / "3-03.webp").read_bytes()
JPEG = (SAMPLES / "2-01.jpg").read_bytes()
LIMIT = 20 * 2**20
"""Bytes of a body, by default (settings.py)."""


def too_many_pixels() -> bytes:
    """25,010,000 pixels, one beyond the default limit of 25 million in each row of 5,000."""
    file = io.BytesIO()
    Image.new("1", (5_002, 5_000)).save(file, "PNG")
    return file.getvalue()


BODIES = [
    pytest.param({"content": b""}, 400, "malformed_request", id="empty-body"),
    pytest.param({"files": {"photo": GOOD}}, 400, "malformed_request", id="other-part"),
    pytest.param({"content": JPEG[: len(JPEG) // 2]}, 422, "undecodable_image", id="half-a-jpeg"),
    pytest.param(
        {"files": {"image": GOOD[:-20]}}, 422, "undecodable_image", id="form-with-a-cut-file"
    ),
    pytest.param(
        {"files": {"image": ("a.jpg", b"<!doctype html><p>no", "image/jpeg")}},
        415,
        "unsupported_media_type",
        id="html-called-jpeg",
    ),
    pytest.param(
        {"content": GOOD, "headers": {"content-type": "application/json"}},
        415,
        "unsupported_media_type",
        id="json",
    ),
    pytest.param({"content": too_many_pixels()}, 413, "image_too_large", id="too-many-pixels"),
    pytest.param({"content": b"\0" * (LIMIT + 1)}, 413, "body_too_large", id="too-many-bytes"),
]


@pytest.mark.parametrize(("request_of", "status", "code"), BODIES)
def test_a_wrong_body_is_answered_with_its_code(
    embedded: Server, request_of: dict[str, Any], status: int, code: str
) -> None:
    checked(embedded.client.post("/classify", **request_of), status, code)


# Arabic-Indic digit three: Python's int() would take it
@pytest.mark.parametrize("query", ["top_k=0", "top_k=11", "top_k=%D9%A3", "topk=3"])
def test_a_wrong_query_is_the_clients_error(embedded: Server, query: str) -> None:
    checked(embedded.client.post(f"/classify?{query}", content=GOOD), 400, "malformed_request")


def test_a_refused_encoding_is_told_the_one_that_is_accepted(embedded: Server) -> None:
    response = embedded.client.put("/classify", content=GOOD, headers={"Content-Encoding": "br"})

    assert "'br'" in checked(response, 415, "unsupported_media_type")["message"]
    assert response.headers["accept-encoding"] == "identity"


def test_a_body_in_chunks_is_refused_as_soon_as_it_is_too_large(embedded: Server) -> None:
    def chunks() -> Any:
        for _ in range(21):
            yield b"\0" * 2**20

    checked(embedded.client.post("/classify", content=chunks()), 413, "body_too_large")


def test_a_declared_size_beyond_the_limit_is_refused_before_the_body_is_sent(
    embedded: Server,
) -> None:
    head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {LIMIT + 1}\r\n\r\n"
    with embedded.connect() as connection:
        connection.sendall(head.encode())
        status, body = read_answer(connection)

    assert status == 413
    assert json.loads(body)["error"]["code"] == "body_too_large"


def test_a_body_of_exactly_the_limit_is_read(embedded: Server) -> None:
    # Zeros after the end of a JPEG are no part of it.
    response = embedded.client.post("/classify", content=JPEG + b"\0" * (LIMIT - len(JPEG)))

    assert response.status_code == 200


def test_a_url_in_place_of_a_file_is_refused_and_never_fetched(either: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/digit.png"
        part = f'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n{url}\r\n--b--\r\n'
        responses = [
            either.client.post(
                "/classify",
                content=part.encode(),
                headers={"content-type": "multipart/form-data; boundary=b"},
            ),
            either.client.post("/classify", content=url.encode()),
            either.client.post("/classify", json={"image": url}),
            either.client.post("/classify", files={"image": ("image", url.encode())}),
            either.client.post(f"/classify?image={url}", content=GOOD),
        ]
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody connected
            listener.accept()

    assert [response.status_code for response in responses] == [400, 415, 415, 415, 400]
    assert "the part `image` is text" in responses[0].json()["error"]["message"]


def test_bad_requests_do_not_touch_their_concurrent_neighbours(either: Server) -> None:
    bad: list[Any] = [case.values for case in BODIES if case.id != "too-many-bytes"]
    alone = either.client.post("/classify", content=GOOD).json()["predictions"]
    with (
        httpx.Client(base_url=either.url, timeout=PATIENCE_S) as client,
        ThreadPoolExecutor(32) as pool,
    ):
        pairs = []
        for request_of, status, _ in bad * 4:
            pairs.append((pool.submit(client.post, "/classify", **request_of), status))
            pairs.append((pool.submit(client.post, "/classify", content=GOOD), 200))

        for future, status in pairs:
            assert future.result().status_code == status
            if status == 200:
                assert_close(future.result().json()["predictions"], alone)
