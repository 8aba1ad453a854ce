"""Keeps several batches in flight on a device that works beside the processor."""

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
    """What is asked of a device: streams of work, each in order, none waiting for the others.

    Tensors are those of torch; a dtype is given by its name.
    """

    def stream(self) -> Any:
        """Return a further stream."""

    def enqueue(self, stream: Any, work: Callable[[], object]) -> None:
        """Have a stream do some work after what it has to do already."""

    def mark(self, stream: Any) -> Any:
        """Return an event: that the stream has done what it has to do so far."""

    def wait(self, stream: Any, event: Any) -> None:
        """Have a stream wait for an event before it goes on."""

    def settle(self, event: Any) -> None:
        """Wait for an event in this thread, and leave the processor to others meanwhile."""

    def zeros(self, shape: Sequence[int], dtype: str, *, on_host: bool) -> Any:
        """Return a tensor on the device, or one on the host that the device can copy itself."""

    def capture(self, stream: Any, work: Callable[[], object]) -> Callable[[], object]:
        """Do some work on a stream; return what does the same again, on the same memory.

        Raises:
            MemoryError: The device has no room for it.
        """


@dataclass(frozen=True, eq=False)
class _Slot:
    """What one batch in flight needs. The addresses of the tensors never change."""

    pixels_on_host: Any
    pixels: Any
    logits: Any
    logits_on_host: Any


class InFlightEngine:
    """Runs batches on a device, several at a time; see `Engine`.

    A batch takes a slot. Three streams copy it in, run it and copy its logits out, and the calling
    thread waits for its own batch only, without a lock. With as many calling threads as slots, the
    device copies and computes at the same time. The network is captured once for each size, on
    memory of its own; the device copies there what lies in the slot, in microseconds.

    A batch is run at the next captured size. One larger than all of them is run in parts.

    Args:
        forward: Returns logits (n, classes), float32 on the device, of a batch (n, H, W, C) there.
        batch_sizes: To capture. Those that the device has no room for are left out.
        slots: Batches in flight.
        input_shape: (H, W, C).
        dtype: Of an input.
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
        """Capture each size, the largest first; return those that there was room for.

        All memory is taken here: a device that is full is found out at the start.
        """
        done: dict[int, Callable[[], object]] = {}
        left = sorted(batch_sizes, reverse=True)
        while left:
            size = left.pop(0)
            work = functools.partial(_run_into, self._logits[:size], forward, self._pixels[:size])
            try:
                done[size] = self._device.capture(self._compute, work)
            except MemoryError as error:
                if size == 1:
                    raise
                logger.warning("no room on the device for batches of %d: %s", size, error)
                if not left and not done:
                    left = [size // 2]
        return done

    def run(self, batch: Batch) -> Logits:
        """See `Engine.run`; of any size."""
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
        device.wait(self._compute, device.mark(self._copy_in))
        with self._computing:  # what two threads enqueue must not alternate
            device.enqueue(self._compute, lambda: _copy(self._pixels, slot.pixels, count))
            device.enqueue(self._compute, self._replay[size])
            device.enqueue(self._compute, lambda: _copy(slot.logits, self._logits, count))
            computed = device.mark(self._compute)
        device.wait(self._copy_out, computed)
        device.enqueue(self._copy_out, lambda: _copy(slot.logits_on_host, slot.logits, count))
        device.settle(device.mark(self._copy_out))
        logits: npt.NDArray[np.float32] = slot.logits_on_host.numpy()[:count].copy()
        return logits


def _run_into(logits: Any, forward: Callable[[Any], Any], pixels: Any) -> None:
    logits.copy_(forward(pixels))


def _copy(target: Any, source: Any, count: int) -> None:
    target[:count].copy_(source[:count], non_blocking=True)
