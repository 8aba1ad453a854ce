"""What holds for every error a client gets."""

import re
from typing import Any

import httpx

INTERNALS = re.compile(
    r"Traceback|/home/|/tmp/|/usr/|site-packages|\.py\b|PIL|Pillow|openvino|bentoml|asyncio|0x[0-9a-f]{6}",
    re.IGNORECASE,
)


def checked(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error of a response, after what holds for every error."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["code"] == code
    assert error["request_id"] == response.headers["x-request-id"]
    assert error["message"]
    assert len(error["message"]) < 300
    assert not INTERNALS.search(error["message"]), error["message"]
    return error
