"""What a classification answers, and when two answers are the same."""

from typing import Any

import httpx
import pytest


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
