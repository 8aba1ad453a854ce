"""An engine with several batches in flight on a device that works asynchronously."""

import bisect
import functools
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from image_classifier.inference.engine import Batch, Logits
from image_classifier.logs import logger


class Device(Protocol):
    """A device with streams: each does its work in order, independently of the others.

    Tensors, streams and events are those of torch; a dtype is passed by its name.
    """

    def stream(self) -> Any:
        """Return a new stream."""

    def enqueue(self, stream: Any, work: Callable[[], object]) -> None:
        """Add work to the end of a stream."""

    def record(self, stream: Any) -> Any:
        """Return an event that is set when the stream has done all work enqueued so far.

        A thread that waits for it (`synchronize`) does not use the CPU.
        """

    def zeros(self, shape: Sequence[int], dtype: str, *, on_host: bool) -> Any:
        """Return a tensor on the device, or in pinned memory on the host."""

    def capture(self, stream: Any, work: Callable[[], object]) -> Callable[[], object]:
        """Run work on a stream; return a function that repeats it on the same memory.

        Raises:
            MemoryError: The device has too little memory.
        """


@dataclass(frozen=True, eq=False)
class _Slot:
    """The buffers of one batch in flight. The addresses of the tensors never change."""

    pixels_on_host: Any
    pixels: Any
    logits: Any
    logits_on_host: Any


class InFlightEngine:
    """Runs several batches concurrently on a device; see `Engine`.

    A batch takes a slot. Three streams copy it in, run it and copy its logits out, and the calling
    thread waits only for its own batch. With as many calling threads as slots, the device copies
    and computes at the same time. The network is captured once for each batch size, on buffers of
    its own; the device copies the contents of a slot there in microseconds.

    A batch runs at the next captured size; a batch larger than all sizes runs in parts.

    Args:
        forward: Maps a batch (n, H, W, C) on the device to logits (n, classes), float32.
        batch_sizes: Batch sizes to capture; those too large for the device's memory are left out.
        slots: Number of batches in flight.
        input_shape: (H, W, C).
        dtype: Name of the dtype of an input.
        num_classes: Width of the logits.
    """

    def __init__(
        self,
        forward: Callable[[Any], Any],
        device: Device,
        batch_sizes: Sequence[int],
        *,
        slots: int,
        input_shape: Sequence[int],
        dtype: str,
        num_classes: int,
    ) -> None:
        self._device = device
        self._copy_in, self._compute, self._copy_out = (device.stream() for _ in range(3))
        self._computing = threading.Lock()
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        largest = max(batch_sizes)
        rows, columns = (largest, *input_shape), (largest, num_classes)
        self._pixels = device.zeros(rows, dtype, on_host=False)
        self._logits = device.zeros(columns, "float32", on_host=False)
        for _ in range(slots):
            self._free.put(
                _Slot(
                    pixels_on_host=device.zeros(rows, dtype, on_host=True),
                    pixels=device.zeros(rows, dtype, on_host=False),
                    logits=device.zeros(columns, "float32", on_host=False),
                    logits_on_host=device.zeros(columns, "float32", on_host=True),
                )
            )
        self._replay = self._captured(forward, batch_sizes)
        self.batch_sizes = sorted(self._replay)

    def _captured(
        self, forward: Callable[[Any], Any], batch_sizes: Sequence[int]
    ) -> dict[int, Callable[[], object]]:
        """Capture each batch size, largest first; return those that fit into memory.

        All memory is allocated here, so that a lack of memory shows at the start.
        """
        captured: dict[int, Callable[[], object]] = {}
        for size in sorted(batch_sizes, reverse=True):
            work = functools.partial(_run_into, self._logits[:size], forward, self._pixels[:size])
            try:
                captured[size] = self._device.capture(self._compute, work)
            except MemoryError as error:
                if size == min(batch_sizes):
                    raise
                logger.warning("no memory on the device for batches of %d: %s", size, error)
        return captured

    def run(self, batch: Batch) -> Logits:
        """See `Engine.run`; the batch may have any size."""
        largest = self.batch_sizes[-1]
        if len(batch) > largest:
            starts = range(0, len(batch), largest)
            return np.concatenate([self.run(batch[start : start + largest]) for start in starts])
        slot = self._free.get()
        try:
            return self._run(slot, batch)
        finally:
            self._free.put(slot)

    def _run(self, slot: _Slot, batch: Batch) -> Logits:
        device, count = self._device, len(batch)
        size = self.batch_sizes[bisect.bisect_left(self.batch_sizes, count)]
        slot.pixels_on_host.numpy()[:count] = batch
        device.enqueue(self._copy_in, lambda: _copy(slot.pixels, slot.pixels_on_host, count))
        self._compute.wait_event(device.record(self._copy_in))
        with self._computing:  # the work of two threads must not interleave
            device.enqueue(self._compute, lambda: _copy(self._pixels, slot.pixels, count))
            device.enqueue(self._compute, self._replay[size])
            device.enqueue(self._compute, lambda: _copy(slot.logits, self._logits, count))
            computed = device.record(self._compute)
        self._copy_out.wait_event(computed)
        device.enqueue(self._copy_out, lambda: _copy(slot.logits_on_host, slot.logits, count))
        device.record(self._copy_out).synchronize()
        logits: npt.NDArray[np.float32] = slot.logits_on_host.numpy()[:count].copy()
        return logits


def _run_into(logits: Any, forward: Callable[[Any], Any], pixels: Any) -> None:
    logits.copy_(forward(pixels))


def _copy(target: Any, source: Any, count: int) -> None:
    target[:count].copy_(source[:count], non_blocking=True)
