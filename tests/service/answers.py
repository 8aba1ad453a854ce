"""What a request is answered, and when two answers are the same."""

import re
from typing import Any

import httpx
import pytest

INTERNALS = re.compile(
    r"Traceback|/home/|/tmp/|/usr/|site-packages|\.py\b|PIL|Pillow|openvino|bentoml|asyncio|0x[0-9a-f]{6}",
    re.IGNORECASE,
)


def predictions(response: httpx.Response) -> list[dict[str, Any]]:
    """The predictions of an answer that must be one."""
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["predictions"]
    return found


def assert_close(answer: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Compare the predictions of one image that ran in batches of different sizes.

    Another batch size may move a logit by 1e-5, and with it each probability, however small, by
    1e-5 of itself.
    """
    found = {one["class_id"]: one["probability"] for one in answer}
    wanted = {one["class_id"]: one["probability"] for one in expected}
    assert found == pytest.approx(wanted, rel=1e-3, abs=0)
    assert answer[0]["class_id"] == expected[0]["class_id"]


def checked_error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
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
