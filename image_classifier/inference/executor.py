"""An engine made ready: shapes checked, batches split over streams, warmed up."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from image_classifier.artifact.manifest import InputSpec
from image_classifier.artifact.record import Plan
from image_classifier.inference.engine import Batch, Engine, EngineError, Logits


class Streams:
    """Hands out streams; thread-safe.

    Args:
        count: Number of streams.

    Attributes:
        waiting: Calls that wait for a stream.
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
            taken = self._count if all_held else 1
            self._free -= taken
        try:
            yield all_held
        finally:
            with self._freed:
                self._free += taken
                self._freed.notify(taken)


class Executor:
    """Owns the network: one engine, the shapes it runs, the streams it may use.

    Thread-safe. A batch is split into the compiled batch sizes, and the parts run on as many
    streams as are free. A single input runs on `single_stream_engine`, with all threads, where
    nothing else runs or waits (docs/performance.md).

    Args:
        engine: Runs `plan.streams` batches at a time.
        single_stream_engine: The same graph with one stream of all threads and batch size 1;
            None where the plan has none.
        accelerator: Name of the GPU that the engine runs on, None without. A GPU runs a batch up
            to the largest compiled size, padded, sooner than its parts, so it is not split.
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
            EngineError: The engine rejects its own shapes; the service must not start.
        """
        for batch_size in self.plan.batch_sizes:
            batch = np.zeros((batch_size, *self._input_shape), self._dtype)
            futures = [
                self._pool.submit(self._run_part, batch, batch_size)
                for _ in range(self.plan.streams)
            ]
            for future in futures:
                future.result()
        if self._single_stream_engine is not None:
            self.run(np.zeros((1, *self._input_shape), self._dtype))

    def run(self, batch: Batch, *, more_expected: bool = False) -> Logits:
        """Run the forward pass of a batch of any size.

        Args:
            batch: (n, H, W, C) of the manifest's dtype, n at least 1.
            more_expected: Whether other inputs are on their way here. A single input then takes
                one stream only and leaves the others to them.

        Returns:
            Logits, float32, shape (n, classes), row i for input i.

        Raises:
            ValueError: The batch has another shape or dtype.
            EngineError: The engine's output does not fit the batch.
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
        """Do as `run`, with parts of one compiled batch size only, the last one padded."""
        return self._run_split(batch, split(len(batch), (batch_size,)))

    def _run_split(self, batch: Batch, sizes: list[int]) -> Logits:
        if len(sizes) == 1:
            return self._run_part(batch, sizes[0])
        pending: list[Future[Logits]] = []
        start = 0
        for size in sizes:
            pending.append(self._pool.submit(self._run_part, batch[start : start + size], size))
            start += size
        return np.concatenate([future.result() for future in pending])

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
        """Let running parts finish, drop those that have not begun, end the threads."""
        self._pool.shutdown(cancel_futures=True)


def _padded(part: Batch, batch_size: int) -> Batch:
    missing = batch_size - len(part)
    if not missing:
        return part
    return np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])


def split(count: int, batch_sizes: tuple[int, ...]) -> list[int]:
    """Return compiled batch sizes that together hold `count` inputs, largest first.

    The last part may be larger than what is left for it: it is padded.

    Args:
        batch_sizes: Ascending.

    >>> split(7, (1, 4))
    [4, 1, 1, 1]
    >>> split(3, (4,))
    [4]
    """
    parts = []
    left = count
    for size in reversed(batch_sizes):
        parts += [size] * (left // size)
        left %= size
    if left:
        parts.append(min(size for size in batch_sizes if size >= left))
    return parts
