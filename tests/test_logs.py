"""The log: JSON lines, and throttled lines about refused requests."""

import json
import logging

import pytest

from image_classifier.logs import ErrorLog, JsonFormatter


def test_a_json_line_has_the_message_the_fields_and_the_traceback() -> None:
    try:
        raise ValueError("the cause")
    except ValueError as error:
        failed = (ValueError, error, error.__traceback__)
    record = logging.LogRecord(
        "classifier", logging.ERROR, "", 0, "request %s\nfailed", ("7",), failed
    )
    record.fields = {"request_id": "7"}

    text = JsonFormatter().format(record)

    line = json.loads(text)
    assert "\n" not in text
    assert (line["level"], line["message"]) == ("ERROR", "request 7\nfailed")
    assert line["request_id"] == "7"
    assert "ValueError: the cause" in line["traceback"]
    assert line["time"].endswith("+00:00")


def test_each_code_is_logged_every_ten_seconds_with_a_count_of_omitted_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seconds = 0.0
    errors = ErrorLog(clock=lambda: seconds)
    for tenth in range(150):
        seconds = tenth / 10
        errors.note(request_id=f"r{tenth}", status=429, code="overloaded", message="too much")
    errors.note(request_id="other", status=400, code="malformed_request", message="no image")
    errors.close()
    errors.close()

    assert [record.getMessage() for record in caplog.records] == [
        "request r0: 429 overloaded: too much",
        "request r100: 429 overloaded: too much (and 99 more since the last such line)",
        "request other: 400 malformed_request: no image",
        "overloaded: 49 more since the last such line",
    ]
