"""Bad requests get the right error and do not affect concurrent requests."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from PIL import Image

from tests.imports import PATIENCE_S, SAMPLES
from tests.preprocessing.files import encoded
from tests.service.answers import assert_close, checked_error
from tests.service.server import Server

GOOD = (SAMPLES / "3-03.webp").read_bytes()
JPEG = (SAMPLES / "2-01.jpg").read_bytes()


def too_many_pixels() -> bytes:
    """25,010,000 pixels; the default limit is 25 million."""
    return encoded(Image.new("1", (5_002, 5_000)), "PNG")


BODIES: list[tuple[dict[str, Any], int, str]] = [
    ({"content": b""}, 400, "malformed_request"),
    ({"files": {"photo": GOOD}}, 400, "malformed_request"),
    ({"content": JPEG[: len(JPEG) // 2]}, 422, "undecodable_image"),
    ({"files": {"image": GOOD[:-20]}}, 422, "undecodable_image"),
    (
        {"files": {"image": ("a.jpg", b"<!doctype html><p>no", "image/jpeg")}},
        415,
        "unsupported_media_type",
    ),
    (
        {"content": GOOD, "headers": {"content-type": "application/json"}},
        415,
        "unsupported_media_type",
    ),
    ({"content": too_many_pixels()}, 413, "image_too_large"),
    # U+0663 is an Arabic-Indic digit three, which int() accepts.
    *(
        ({"content": GOOD, "params": query}, 400, "malformed_request")
        for query in ({"top_k": "0"}, {"top_k": "11"}, {"top_k": "\u0663"}, {"topk": "3"})
    ),
]


def test_bad_requests_get_their_error_and_do_not_affect_concurrent_requests(
    either: Server,
) -> None:
    expected = either.client.post("/classify", content=GOOD).json()["predictions"]
    with (
        httpx.Client(base_url=either.url, timeout=PATIENCE_S) as client,
        ThreadPoolExecutor(32) as pool,
    ):
        pairs = [
            (
                pool.submit(client.post, "/classify", **request_of),
                pool.submit(client.post, "/classify", content=GOOD),
                status,
                code,
            )
            for request_of, status, code in BODIES * 4
        ]

        for bad, good, status, code in pairs:
            checked_error(bad.result(), status, code)
            assert good.result().status_code == 200
            assert_close(good.result().json()["predictions"], expected)
