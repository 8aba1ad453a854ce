"""Checks of answers and errors."""

import re
from typing import Any

import httpx
import pytest

INTERNALS = re.compile(
    r"Traceback|/home/|/tmp/|/usr/|site-packages|\.py\b|PIL|Pillow|openvino|bentoml|asyncio|0x[0-9a-f]{6}",
    re.IGNORECASE,
)


def predictions(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the predictions of a successful answer."""
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["predictions"]
    return found


def assert_close(answer: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Compare predictions of an image from batches of different sizes.

    Another batch size may change a logit by 1e-5, and every probability by 1e-5 of itself.
    """
    actual, wanted = (
        {each["class_id"]: each["probability"] for each in ranked} for ranked in (answer, expected)
    )
    assert actual == pytest.approx(wanted, rel=1e-3, abs=0)
    assert answer[0]["class_id"] == expected[0]["class_id"]


def checked_error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check a response against the common form of errors and return its error."""
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
