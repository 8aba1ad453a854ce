"""How a worker that must not serve stops the whole server, with one line and status 1.

BentoML 1.4.39 starts a failed worker again and again, with a traceback each time, while the
port stays open. Here the worker says why in one line and tells the supervisor to stop.
"""

import atexit
import os
import signal
import sys
from typing import NoReturn

from errors import OperatorError

SUPERVISOR = "IMAGE_CLASSIFIER_SUPERVISOR"
"""Environment variable with the supervisor's process id, inherited by the workers."""


def let_workers_refuse() -> None:
    """Called in the supervisor, before workers start: SIGUSR1 stops it with status 1."""
    os.environ[SUPERVISOR] = str(os.getpid())
    signal.signal(signal.SIGUSR1, _stop)


def refuse(error: OperatorError) -> NoReturn:
    """Called in a worker that must not serve.

    Raises:
        OperatorError: `error` again, where no supervisor of ours waits (tests, in-process use).
    """
    if os.environ.get(SUPERVISOR) != str(os.getppid()):
        raise error
    sys.stderr.write(f"image_classifier: {error}\n")
    sys.stderr.flush()
    os.kill(os.getppid(), signal.SIGUSR1)
    os._exit(1)


def _stop(_signal: int, _frame: object) -> None:
    atexit.register(os._exit, 1)  # the supervisor's own way out ends with status 0
    os.kill(os.getpid(), signal.SIGTERM)
