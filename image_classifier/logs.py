"""What the service writes to its log: its format, and lines about refused requests."""

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

logger = logging.getLogger("classifier")

ERROR_INTERVAL_S = 10.0
"""Seconds between two lines about the same code of an error."""


def configure_logging(log_format: Literal["text", "json"]) -> None:
    """Have all lines of this process, BentoML's too, written in a format, ours from INFO on."""
    logger.setLevel(logging.INFO)
    if log_format == "json":
        for name in (None, "bentoml", "circus", "uvicorn.error"):  # those BentoML gives handlers
            for handler in logging.getLogger(name).handlers:
                handler.setFormatter(JsonFormatter())


class JsonFormatter(logging.Formatter):
    """One JSON object a line; the attribute `fields` of a record, a dict, is merged into it."""

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
    """Writes a line for a refused request, at most one for each code in `ERROR_INTERVAL_S`.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_line_at: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def note(self, *, request_id: str, status: int, code: str, message: str) -> None:
        """Write or count one answer that is an error; the line says how many were left out."""
        now = self._clock()
        if now < self._next_line_at.get(code, now):
            self._left_out[code] = self._left_out.get(code, 0) + 1
            return
        self._next_line_at[code] = now + ERROR_INTERVAL_S
        left_out = self._left_out.pop(code, 0)
        logger.warning(
            "request %s: %d %s: %s%s",
            request_id,
            status,
            code,
            message,
            f" (and {left_out} more since the last such line)" if left_out else "",
            extra={"fields": {"request_id": request_id, "status": status, "code": code}},
        )
