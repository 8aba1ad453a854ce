"""The process of an import: its signals, its memory and its terminal."""

import ctypes
import signal
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""Exit status: 128 + SIGINT, as shells report it."""
UNREAD = 141
"""Exit status: 128 + SIGPIPE."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)

M_MMAP_THRESHOLD = -3  # glibc's malloc.h
THRESHOLD_BYTES = 1 << 20


def printable(line: str) -> str:
    """Return a line with "·" in place of control characters, which terminals would obey."""
    return "".join("·" if unicodedata.category(mark)[0] == "C" else mark for mark in line)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore SIGINT and SIGTERM while the store and the lock change together.

    For the main thread.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def return_freed_memory() -> None:
    """Map each allocation of 1 MiB or more separately, so that freeing it returns the memory.

    By default glibc raises this threshold up to 32 MiB as larger blocks are freed. Weights then
    lie in one heap that never shrinks: importing ViT-L/16 (1.2 GB) peaked at 7.0 GB, with a fixed
    threshold at 4.7 GB. Other C libraries have no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
