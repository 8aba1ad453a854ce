"""Every workaround for BentoML."""

import atexit
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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


API_PROCESSES = "service"
"""What BentoML 1.4.39 calls those of the entry service (_bentoml_impl/server/serving.py)."""


def let_requests_finish(supervisor: type[Any]) -> None:
    """Called in the supervisor, before workers start: stop the API processes before the runner.

    BentoML 1.4.39 removes the directory of the runner's socket and then stops all processes at
    once (bentoml/_internal/utils/circus, `Arbiter.stop`): what an API process had accepted and
    not yet sent to the runner was lost (tests/service/test_stopping.py).

    Args:
        supervisor: The class whose `stop` ends the server; a circus arbiter.
    """
    from tornado import gen  # of no use in a worker

    stop_all = supervisor.stop

    @gen.coroutine  # what circus awaits
    def stop(self: Any) -> Any:
        if self._stopping:  # a second signal
            return
        self._stopping = True  # an API process that has ended is not started again
        for watcher in self.iter_watchers():
            if watcher.name == API_PROCESSES:
                yield watcher._stop(True)
        yield stop_all(self)

    supervisor.stop = stop
