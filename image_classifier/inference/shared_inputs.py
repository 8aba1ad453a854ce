"""Shared memory in which API processes pass inputs to the runner's process."""

import math
import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from image_classifier.inference.engine import Batch
from preprocessing import InputSpec


class Place(NamedTuple):
    """Where the inputs of a batch are: in adjacent slots of the memory of a process.

    Attributes:
        process: Id of the process.
        descriptor: Its file descriptor of the memory.
        first: The first slot.
        end: The slot after the last one.
    """

    process: int
    descriptor: int
    first: int
    end: int


class SharedInputs:
    """Memory of this process with a slot for each input of the calls in flight.

    The memory is a file without a name (memfd_create(2)), which other processes of the same user
    open through /proc. The system frees it when the last process that uses it has ended.

    Args:
        input_spec: Shape and dtype of an input.
        calls: Maximum number of concurrent batches.
        max_batch_size: Maximum number of inputs in a batch.

    Attributes:
        address: Process id and file descriptor, by which other processes open the memory.
    """

    def __init__(self, input_spec: InputSpec, *, calls: int, max_batch_size: int) -> None:
        shape = (calls * max_batch_size, *input_spec.shape)
        descriptor = os.memfd_create("inputs")
        self.address = os.getpid(), descriptor
        weakref.finalize(self, os.close, descriptor)
        os.ftruncate(descriptor, math.prod(shape) * np.dtype(input_spec.dtype).itemsize)
        memory = mmap.mmap(descriptor, 0)
        self._slots = np.frombuffer(memory, input_spec.dtype).reshape(shape)
        self._free = list(range(0, len(self._slots), max_batch_size))

    @property
    def full(self) -> bool:
        """Whether there is no room for another batch."""
        return not self._free

    @contextmanager
    def holding(self, batch: Batch) -> Iterator[Place]:
        """Copy a batch into free slots, yield their place, and free them afterwards."""
        first = self._free.pop()
        end = first + len(batch)
        try:
            self._slots[first:end] = batch
            yield Place(*self.address, first, end)
        finally:
            self._free.append(first)


class SharedInputsReader:
    """Reads the `SharedInputs` of other processes. Thread-safe.

    Args:
        input_spec: Shape and dtype of an input.
    """

    def __init__(self, input_spec: InputSpec) -> None:
        self._shape = input_spec.shape
        self._dtype = np.dtype(input_spec.dtype)
        self._mapped: dict[Path, tuple[int, Batch]] = {}  # path -> inode number, slots

    def read(self, place: Place) -> Batch:
        """Return the inputs at a place, (n, H, W, C): a view of the memory.

        Raises:
            OSError: As for `open`.
        """
        return self.open(place.process, place.descriptor)[place.first : place.end]

    def open(self, process: int, descriptor: int) -> Batch:
        """Map the memory at an address, once; return its slots, (slots, H, W, C).

        Raises:
            OSError: The process has ended, or the system forbids it.
        """
        path = Path(f"/proc/{process}/fd/{descriptor}")
        inode = path.stat().st_ino  # later, another process may have the same address
        mapped_inode, slots = self._mapped.get(path, (None, None))
        if slots is not None and mapped_inode == inode:
            return slots
        with path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        slots = np.frombuffer(memory, self._dtype).reshape(-1, *self._shape)
        # Unmap the memory of processes that have ended, so that it is freed.
        for old in list(self._mapped):  # other threads may change it meanwhile
            if not old.exists():
                self._mapped.pop(old, None)
        self._mapped[path] = inode, slots
        return slots
