"""An engine made ready: shapes checked, batches split, warmed up, proven against the goldens."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from artifact.manifest import PreprocessingEntry
from artifact.record import Plan
from errors import ClassifierError
from inference.engines import Batch, Engine, Logits


class EngineFault(ClassifierError):
    """The engine broke its contract: wrong number of rows or wrong width."""


class Executor:
    """Owns the network: one engine, the shapes it runs, the streams it may use.

    Thread-safe. A batch is split into the compiled batch sizes, and the parts run on as many
    streams as are free.
    """

    def __init__(
        self, engine: Engine, plan: Plan, signature: PreprocessingEntry, num_classes: int
    ) -> None:
        self.plan = plan
        self._engine = engine
        self._input_shape = signature.input_shape
        self._dtype = np.dtype(signature.input_dtype)
        self._num_classes = num_classes
        self._streams = threading.BoundedSemaphore(plan.streams)
        self._pool = ThreadPoolExecutor(plan.streams, "infer")

    def warmup(self) -> None:
        """Run every compiled batch size on every stream, so that no request pays for it.

        Raises:
            EngineFault: The engine rejects its own shapes; the service must not start.
        """
        for batch_size in self.plan.batch_sizes:
            batch = np.zeros((batch_size, *self._input_shape), self._dtype)
            futures = [self._pool.submit(self._run_part, batch) for _ in range(self.plan.streams)]
            for future in futures:
                future.result()

    def run(self, batch: Batch) -> Logits:
        """The forward pass of a batch of any size.

        Args:
            batch: (n, H, W, C) of the manifest's dtype, n at least 1.

        Returns:
            Logits, float32, shape (n, classes), row i for input i.

        Raises:
            ValueError: The batch has another shape or dtype.
            EngineFault: The engine's output does not fit the batch.
        """
        if batch.shape[1:] != self._input_shape or batch.dtype != self._dtype or not len(batch):
            raise ValueError(
                f"batch is {batch.dtype} {batch.shape}, expected {self._dtype} "
                f"(n, {', '.join(map(str, self._input_shape))}) with n of 1 or more"
            )
        return self._run_split(batch, split(len(batch), self.plan.batch_sizes))

    def run_in_parts(self, batch: Batch, batch_size: int) -> Logits:
        """`run` with parts of one compiled batch size only, the last one padded."""
        return self._run_split(batch, split(len(batch), (batch_size,)))

    def _run_split(self, batch: Batch, sizes: list[int]) -> Logits:
        if len(sizes) == 1:
            return self._run_padded(batch, sizes[0])
        pending: list[Future[Logits]] = []
        start = 0
        for size in sizes:
            pending.append(self._pool.submit(self._run_padded, batch[start : start + size], size))
            start += size
        return np.concatenate([future.result() for future in pending])

    def _run_padded(self, part: Batch, batch_size: int) -> Logits:
        missing = batch_size - len(part)
        if missing:
            filler = np.zeros((missing, *part.shape[1:]), part.dtype)
            return self._run_part(np.concatenate([part, filler]))[: len(part)]
        return self._run_part(part)

    def _run_part(self, part: Batch) -> Logits:
        with self._streams:
            logits = self._engine.run(part)
        if logits.shape != (len(part), self._num_classes):
            raise EngineFault(
                f"engine {self.plan.engine}: logits are {logits.shape}, expected "
                f"({len(part)}, {self._num_classes})"
            )
        return logits

    def close(self) -> None:
        """Let running parts finish, drop those that have not begun, end the threads."""
        self._pool.shutdown(cancel_futures=True)


def split(count: int, batch_sizes: tuple[int, ...]) -> list[int]:
    """Compiled batch sizes that together hold `count` inputs, largest first.

    The last part may be larger than what is left for it: it is padded. Sizes ascend.

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
