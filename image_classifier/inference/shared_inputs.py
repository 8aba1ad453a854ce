"""Carries inputs from an API process to the runner's process in memory that both see."""

import math
import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from image_classifier.artifact.manifest import InputSpec
from image_classifier.inference.engine import Batch

Places = npt.NDArray[np.int64]
"""Where inputs lie, shape (n, 3): process id, file descriptor and slot of each."""


class SharedInputs:
    """Memory of this process with a slot for each input of the calls in flight.

    The file has no name (memfd_create(2), Linux): the system frees it when the last process that
    uses it has ended, however it ended. Others with the same user open it through /proc.

    Args:
        input_spec: Shape and dtype of an input.
        calls: Batches that are shared at a time, at most.
        max_batch_size: Inputs of one batch, at most.

    Attributes:
        address: Process id and file descriptor, by which others open it.
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
    def holding(self, batch: Batch) -> Iterator[Places]:
        """Copy a batch into free slots and yield their places; free them at the end."""
        first = self._free.pop()
        places = np.empty((len(batch), 3), np.int64)
        places[:, :2] = self.address
        places[:, 2] = range(first, first + len(batch))
        self._slots[first : first + len(batch)] = batch
        try:
            yield places
        finally:
            self._free.append(first)


class SharedInputsReader:
    """Reads what other processes hold in a `SharedInputs`. Thread-safe.

    Args:
        input_spec: Shape and dtype of an input.
    """

    def __init__(self, input_spec: InputSpec) -> None:
        self._shape = input_spec.shape
        self._dtype = np.dtype(input_spec.dtype)
        self._mapped: dict[Path, tuple[int, Batch]] = {}  # with the number of the file
        self._changing = threading.Lock()

    def read(self, places: Places) -> Batch:
        """Return the inputs at some places, (n, H, W, C): a copy, or where they lie.

        Of a process that has ended they are zero: nobody waits for the answer, and the inputs of
        other processes beside them must not fail.

        Raises:
            OSError: The system forbids to open the memory of a process.
        """
        addresses = [tuple(address) for address in places[:, :2].tolist()]
        slots = {address: self._open_or_blank(*address) for address in set(addresses)}
        first, end = places[0, 2], places[0, 2] + len(places)
        if len(slots) == 1 and np.array_equal(places[:, 2], range(first, end)):
            batch: Batch = slots[addresses[0]][first:end]
            return batch
        pairs = zip(addresses, places[:, 2], strict=True)
        return np.stack([slots[address][slot] for address, slot in pairs])

    def _open_or_blank(self, process: int, descriptor: int) -> Batch:
        try:
            return self.open(process, descriptor)
        except FileNotFoundError:
            return np.broadcast_to(np.zeros((), self._dtype), (2**31, *self._shape))

    def open(self, process: int, descriptor: int) -> Batch:
        """Map the memory at an address, once; return its slots, (slots, H, W, C).

        Raises:
            OSError: The process has ended, or the system forbids it.
        """
        path = Path(f"/proc/{process}/fd/{descriptor}")
        number = path.stat().st_ino  # an address may be that of another process, later
        known = self._mapped.get(path)
        if known is not None and known[0] == number:
            return known[1]
        with path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        slots = np.frombuffer(memory, self._dtype).reshape(-1, *self._shape)
        with self._changing:
            # The memory of processes that have ended is freed when nobody has it mapped.
            for old in [old for old in self._mapped if not old.exists()]:
                del self._mapped[old]
            self._mapped[path] = number, slots
        return slots
