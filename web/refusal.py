"""How a worker that must not serve stops the whole server, with one line and status 1.

BentoML 1.4.39 starts a failed worker again and again, with a traceback each time, while the
port stays open. Here the first worker that fails leaves one line, and the supervisor says it
and stops.
"""

import atexit
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from preprocessing.errors import OperatorError

SUPERVISOR = "IMAGE_CLASSIFIER_SUPERVISOR"
"""Environment variable, inherited by the workers: the supervisor's process id, a colon, and the
folder for the line."""
LINE = "refusal"


def let_workers_refuse() -> None:
    """Called in the supervisor, before workers start: SIGUSR1 stops it with status 1."""
    folder = tempfile.mkdtemp(prefix="image-classifier-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[SUPERVISOR] = f"{os.getpid()}:{folder}"
    signal.signal(signal.SIGUSR1, _stop)


@contextmanager
def or_refuse() -> Iterator[None]:
    """Around the start of a worker: an exception in it stops the server.

    Raises:
        Exception: The same again, where no supervisor of ours waits (tests, in-process use).
    """
    try:
        yield
    # Whatever a model, an engine or a user's own class raises: a broken start is no start.
    except Exception as error:
        supervisor, _, folder = os.environ.get(SUPERVISOR, "").partition(":")
        if supervisor != str(os.getppid()):
            raise
        _leave_line(error, Path(folder))
        os.kill(os.getppid(), signal.SIGUSR1)
        os._exit(1)


def _leave_line(error: Exception, folder: Path) -> None:
    text = str(error)
    if not isinstance(error, OperatorError):
        text = f"the start failed: {type(error).__name__}: {' '.join(text.split())}"
    draft = folder / f"{LINE}.{os.getpid()}"
    draft.write_text(f"image_classifier: {text}\n", encoding="utf-8")
    with suppress(FileExistsError):  # another worker was first, mostly with the same line
        os.link(draft, folder / LINE)


def _stop(_signal: int, _frame: object) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    folder = os.environ[SUPERVISOR].partition(":")[2]
    sys.stderr.write(Path(folder, LINE).read_text(encoding="utf-8"))
    sys.stderr.flush()
    atexit.register(_leave, folder)  # the supervisor's own way out ends with status 0
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
