"""One-line descriptions of what libraries and users' code raise; the rest is logged."""

import contextlib
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import TypeVar

from importer.errors import ImportRefused
from preprocessing.errors import OperatorError

LOG = logging.getLogger("importer.libraries")
"""Receives the output of libraries at level INFO; the command line writes it to a file."""
MAX_CHARACTERS = 200
TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
OPERATOR = re.compile(r"OpOverload\(op='([\w.]+)'|\b(aten[.:]+\w+)")
"""How torch names an operator that its exporter cannot translate."""
WANTS_GPU = re.compile(
    "(NVIDIA|CUDA) driver|not compiled with CUDA|No CUDA GPUs|CUDA-capable device"
)
"""What torch says on a machine without a GPU."""
FIXED_BATCH = (
    "forward turns the batch size into a fixed number, as int(x.size(0)), len(x) or `for image in "
    "x` do; use x.shape[0] as it is, x.flatten(1), or operations on the whole batch"
)
"""What torch's exporters cannot take; `torch.export` raises ConstraintViolationError for it."""
Result = TypeVar("Result")


def describe_failure(step: str, error: BaseException, sources: Path | None = None) -> str:
    """Describe a failed step in one line, and log the traceback.

    Args:
        step: What failed, e.g. "export to ONNX".
        error: Anything; errors of this program describe themselves.
        sources: Folder of the user's code.

    Returns:
        The step, the line of the user's code or else the operator if one can be found, and the
        first line of the innermost error.
    """
    if isinstance(error, OperatorError):
        return f"{step} failed: {error}"
    LOG.info("%s failed", step, exc_info=error)
    chain = [error]  # and its causes, outermost first
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    if any("ConstraintViolation" in type(item).__name__ for item in chain):
        return f"{step} failed: {FIXED_BATCH}"
    frames = [frame for item in reversed(chain) if (frame := _user_frame(sources, item))]
    operators = [found for item in chain if (found := OPERATOR.search(str(item)))]
    place = ""
    if frames:
        place = f" at line {frames[0][1].lineno} of {frames[0][0]} (`{frames[0][1].line}`)"
    elif operators:
        place = f" at operator {operators[0][1] or operators[0][2]}"
    lines = str(chain[-1]).strip().splitlines() or [""]
    # OpenVINO's messages begin with places in its source: "Exception from core.cpp:84:".
    first_line = lines[-1] if lines[0].endswith(":") else lines[0]
    kind = type(chain[-1]).__name__
    return f"{step} failed{place}: {kind}: {one_line(first_line)}".removesuffix(": ")


def call_user_code(
    call: Callable[[], Result], *, what: str, folder: Path | None, remedy: str
) -> Result:
    """Return the result of `call`, or describe what it raises in one line.

    Args:
        what: The code that runs, e.g. "network network.py:build: the builder".
        folder: Folder of the user's files, to name the line that raised.
        remedy: What to do, without a final full stop.

    Raises:
        ImportRefused: `call` raised.
    """
    # The user's code, and libraries it calls, can raise anything, including SystemExit.
    try:
        return call()
    except (Exception, SystemExit) as error:
        frame = _user_frame(folder, error)
        place = f" at {frame[0]}, line {frame[1].lineno}" if frame else ""
        if WANTS_GPU.search(str(error)):
            raise ImportRefused(
                f"{what} asks for a GPU{place}; an import runs on the CPU: remove .cuda(), "
                ".to('cuda') and device='cuda'"
            ) from error
        if isinstance(error, FileNotFoundError) and isinstance(error.filename, str):
            name = Path(error.filename).name
            remedy = (
                f"copy {name} beside the file and open it as Path(__file__).parent / {name!r}, so "
                "that it travels with it; files of weights do not, but buffers (register_buffer) do"
            )
        raise ImportRefused(
            f"{what} raised {type(error).__name__}{place}: {one_line(error)}; {remedy}"
        ) from error


def one_line(error: object) -> str:
    """Return a library's message on one line, without terminal codes, cut to 200 characters."""
    text = " ".join(TERMINAL_CODES.sub("", str(error)).split())
    text = "".join(character for character in text if character.isprintable())
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def _user_frame(
    sources: Path | None, error: BaseException
) -> tuple[str, traceback.FrameSummary] | None:
    """Return the file and frame of the innermost call in the user's code."""
    if sources is None:
        return None
    sources = sources.absolute()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_relative_to(sources):
            return file.relative_to(sources).as_posix(), frame
    return None


@contextlib.contextmanager
def quiet_exporter(step: str) -> Iterator[None]:
    """Suppress what an exporter prints, warns and logs; log what it printed if it fails."""
    printed = StringIO()
    previously_disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            yield
    except Exception:
        logging.disable(previously_disabled)
        if text := printed.getvalue().strip():
            LOG.info("%s printed:\n%s", step, text)
        raise
    finally:
        logging.disable(previously_disabled)
