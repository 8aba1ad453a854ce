"""What Ctrl-C and SIGTERM do: end soon, and never between two steps that belong together."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

GRACE_S = 5.0
"""How long a native call (compiling a graph, say) may go on: Python hears of a signal only when
it returns. After that the process ends as it is; the next import removes its draft."""
STATUS = 130
"""128 + SIGINT, as shells have it."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_complete = threading.Event()
_complete.set()


def end_on_signals() -> None:
    """SIGINT and SIGTERM raise KeyboardInterrupt; where that is not heard, the process ends.

    For the main thread of the command line, once.
    """
    for number in SIGNALS:
        signal.signal(number, interrupt)
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_end_after_grace, args=(read,), daemon=True).start()


def interrupt(_signal: int, _frame: object) -> NoReturn:
    """Raise, so that the draft is removed on the way out."""
    raise KeyboardInterrupt


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Finish what is inside, then go on; a signal meanwhile comes too late to undo it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears signals
        return
    before = {number: signal.signal(number, _too_late) for number in SIGNALS}
    _complete.clear()
    try:
        yield
    finally:
        _complete.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _too_late(_signal: int, _frame: object) -> None:
    pass


def _end_after_grace(read: int) -> None:
    while True:
        # A signal during steps that belong together is too late: the program ends by itself.
        if os.read(read, 1)[0] in SIGNALS and _complete.is_set():
            threading.Event().wait(GRACE_S)
            os.write(2, b"model_import: interrupted; the store and the lock are as they were\n")
            os._exit(STATUS)
