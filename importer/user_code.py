"""Failures of a user's code as one line: where, what was raised, what to change."""

import logging
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from importer.errors import ImportRefused

LOG = logging.getLogger(__name__)
"""Gets the whole traceback, at level INFO; the command line decides where it goes."""
ESCAPE_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
MAX_REASON = 200
Result = TypeVar("Result")


def call_user_code(
    call: Callable[[], Result], *, what: str, folder: Path | None, remedy: str
) -> Result:
    """Return what `call` returns; turn whatever it raises into one line.

    Args:
        call: Runs code of the user's.
        what: What runs, e.g. "network network.py:build: the builder".
        folder: Where the user's files lie, to name the line of theirs that raised; None: nowhere.
        remedy: What to do, without a final full stop.

    Raises:
        ImportRefused: `call` raised.
    """
    # Code of the user's, and libraries it calls, can raise anything, SystemExit included.
    try:
        return call()
    except (Exception, SystemExit) as error:
        LOG.info("%s", what, exc_info=error)
        raise ImportRefused(
            f"{what} raised {type(error).__name__}{_place(error, folder)}: {one_line(error)}; "
            f"{remedy}"
        ) from error


def one_line(error: object) -> str:
    """Return a message of a library on one line, without colours, cut to 200 characters."""
    text = " ".join(ESCAPE_CODES.sub("", str(error)).split())
    text = "".join(character for character in text if character.isprintable())
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 1]}…"


def _place(error: BaseException, folder: Path | None) -> str:
    """Return " at FILE, line N" for the innermost line of the user's files, or nothing."""
    if folder is None:
        return ""
    folder = folder.absolute()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_relative_to(folder):
            return f" at {file.relative_to(folder).as_posix()}, line {frame.lineno}"
    return ""
