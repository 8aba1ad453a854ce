"""Memory that is freed goes back to the system at once."""

import ctypes

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
THRESHOLD_BYTES = 1 << 20


def return_freed_memory() -> None:
    """Give each allocation of 1 MiB or more a mapping of its own, returned when it is freed.

    glibc raises this threshold up to 32 MiB by itself as larger blocks are freed; the weights
    of a network then lie in one heap, which keeps its size whatever is freed in it. Importing
    ViT-L/16 (1.2 GB) peaked at 5.8 GB that way, and at 4.7 GB with a fixed threshold. Another
    C library has no `mallopt`, and keeps its own ways.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
