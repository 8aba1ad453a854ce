"""The executor of an engine: checks shapes, splits batches over streams, warms up."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from image_classifier.artifact.record import Plan
from image_classifier.inference.engine import Batch, Engine, EngineError, Logits
from preprocessing import InputSpec


class Streams:
    """Hands out streams; thread-safe.

    Args:
        count: Number of streams.

    Attributes:
        waiting: Number of calls that wait for a stream.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = count
        self.waiting = 0
        self._freed = threading.Condition()

    @contextmanager
    def hold(self, *, all_if_idle: bool) -> Iterator[bool]:
        """Wait for a stream and hold it; yield whether all of them are held.

        Args:
            all_if_idle: Hold all streams if none is in use and no other call waits.
        """
        with self._freed:
            self.waiting += 1
            self._freed.wait_for(lambda: self._free)
            self.waiting -= 1
            all_held = all_if_idle and not self.waiting and self._free == self._count
            held = self._count if all_held else 1
            self._free -= held
        try:
            yield all_held
        finally:
            with self._freed:
                self._free += held
                self._freed.notify(held)


class Executor:
    """Owns the network: one engine, the shapes it runs, the streams it may use.

    Thread-safe. A batch is split into the compiled batch sizes, and the parts run on free streams.
    A single input runs on `single_stream_engine`, with all threads, if nothing else runs or waits
    (docs/performance.md).

    Args:
        engine: Runs up to `plan.streams` batches concurrently.
        single_stream_engine: The same graph with one stream of all threads and batch size 1, or
            None.
        accelerator: Name of the GPU that the engine runs on, or None. On a GPU a batch up to the
            largest compiled size is padded instead of split, which is faster.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        input_spec: InputSpec,
        num_classes: int,
        single_stream_engine: Engine | None = None,
        *,
        accelerator: str | None = None,
    ) -> None:
        self.plan = plan
        self.accelerator = accelerator
        self._engine = engine
        self._single_stream_engine = single_stream_engine
        self._input_shape = input_spec.shape
        self._dtype = np.dtype(input_spec.dtype)
        self._num_classes = num_classes
        self.streams = Streams(plan.streams)
        self._pool = ThreadPoolExecutor(plan.streams, "infer")

    def warmup(self) -> None:
        """Run every compiled batch size on every stream, so that no request pays for it.

        Raises:
            EngineError: The logits have the wrong shape; the service must not start.
        """
        for batch_size in self.plan.batch_sizes:
            batch = np.zeros((batch_size, *self._input_shape), self._dtype)
            count = self.plan.streams
            list(self._pool.map(self._run_part, [batch] * count, [batch_size] * count))
        if self._single_stream_engine is not None:
            self.run(np.zeros((1, *self._input_shape), self._dtype))

    def run(self, batch: Batch, *, more_expected: bool = False) -> Logits:
        """Run the forward pass of a batch of any size.

        Args:
            batch: (n, H, W, C) of the manifest's dtype, n at least 1.
            more_expected: Whether further inputs will arrive soon. A single input then takes
                only one stream and leaves the others to them.

        Returns:
            Logits, float32, shape (n, classes), row i for input i.

        Raises:
            ValueError: The batch has the wrong shape or dtype.
            EngineError: The logits have the wrong shape.
        """
        if batch.shape[1:] != self._input_shape or batch.dtype != self._dtype or not len(batch):
            raise ValueError(
                f"batch is {batch.dtype} {batch.shape}, expected {self._dtype} "
                f"(n, {', '.join(map(str, self._input_shape))}) with n of 1 or more"
            )
        if self.accelerator is not None and len(batch) <= self.plan.batch_sizes[-1]:
            return self._run_part(batch, len(batch))
        sizes = split(len(batch), self.plan.batch_sizes)
        if len(batch) == 1:
            return self._run_part(batch, sizes[0], single_stream=not more_expected)
        return self._run_split(batch, sizes)

    def run_in_parts(self, batch: Batch, batch_size: int) -> Logits:
        """Run a batch in parts of one compiled batch size, the last one padded; see `run`."""
        return self._run_split(batch, split(len(batch), (batch_size,)))

    def _run_split(self, batch: Batch, sizes: list[int]) -> Logits:
        if len(sizes) == 1:
            return self._run_part(batch, sizes[0])
        starts = itertools.accumulate(sizes, initial=0)
        parts = [batch[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        return np.concatenate(list(self._pool.map(self._run_part, parts, sizes)))

    def _run_part(self, part: Batch, batch_size: int, *, single_stream: bool = False) -> Logits:
        single = self._single_stream_engine if single_stream else None
        with self.streams.hold(all_if_idle=single is not None) as all_held:
            if single is not None and all_held:
                engine, batch = single, part
            else:
                engine, batch = self._engine, _padded(part, batch_size)
            logits = engine.run(batch)
        if logits.shape != (len(batch), self._num_classes):
            raise EngineError(
                f"engine {self.plan.engine}: logits are {logits.shape}, expected "
                f"({len(batch)}, {self._num_classes})"
            )
        return logits[: len(part)]

    def close(self) -> None:
        """End the threads: running parts finish, waiting ones are cancelled."""
        self._pool.shutdown(cancel_futures=True)


def _padded(part: Batch, batch_size: int) -> Batch:
    missing = batch_size - len(part)
    if not missing:
        return part
    return np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])


def split(count: int, batch_sizes: tuple[int, ...]) -> list[int]:
    """Return compiled batch sizes that together hold `count` inputs, largest first.

    The last part may be larger than the inputs left for it, which are padded.

    Args:
        batch_sizes: Ascending.

    >>> split(7, (1, 4))
    [4, 1, 1, 1]
    >>> split(3, (4,))
    [4]
    """
    parts = []
    for size in reversed(batch_sizes):
        parts += [size] * (count // size)
        count %= size
    if count:
        parts.append(batch_sizes[0])
    return parts
