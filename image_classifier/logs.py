"""The service's log: its format, and throttled lines about refused requests."""

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

logger = logging.getLogger("classifier")

ERROR_INTERVAL_S = 10.0
"""Seconds between two lines about the same error code."""


def configure_logging(log_format: Literal["text", "json"]) -> None:
    """Set the format of all log lines of this process, BentoML's included; log ours from INFO."""
    logger.setLevel(logging.INFO)
    if log_format == "json":
        for name in (None, "bentoml", "circus", "uvicorn.error"):  # BentoML adds handlers to these
            for handler in logging.getLogger(name).handlers:
                handler.setFormatter(JsonFormatter())


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the keys of the record's attribute `fields`, a dict."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": record.process,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class ErrorLog:
    """A log of refused requests with at most one line per code in `ERROR_INTERVAL_S`.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_line_at: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def note(
        self,
        *,
        request_id: str,
        status: int,
        code: str,
        message: str,
        cause: Exception | None = None,
    ) -> None:
        """Log or count one error answer; each line says how many were left out before it.

        Args:
            cause: An unexpected exception: it is an error of the service, logged with traceback.
        """
        now = self._clock()
        if now < self._next_line_at.get(code, now):
            self._left_out[code] = self._left_out.get(code, 0) + 1
            return
        self._next_line_at[code] = now + ERROR_INTERVAL_S
        left_out = self._left_out.pop(code, 0)
        logger.log(
            logging.WARNING if cause is None else logging.ERROR,
            "request %s: %d %s: %s%s",
            request_id,
            status,
            code,
            message,
            f" (and {left_out} more since the last such line)" if left_out else "",
            exc_info=cause,
            extra={"fields": {"request_id": request_id, "status": status, "code": code}},
        )

    def close(self) -> None:
        """Log how many errors were left out since the last line of each code."""
        for code, left_out in self._left_out.items():
            logger.warning("%s: %d more since the last such line", code, left_out)
        self._left_out.clear()
