"""From file bytes to logits: decode and infer in one thread, or infer through the batcher."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from image_classifier.inference.admission import Reservation
from image_classifier.inference.batcher import Batcher, RunBatch
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.executor import Alone, Executor

ToInput = Callable[[bytes], npt.NDArray[np.generic]]
"""Image file to input, (H, W, C); raises ImageRejected for what is wrong with the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedInference:
    """What came of one image.

    Attributes:
        logits: float32, shape (classes,).
        decode_ms: Milliseconds of decoding and preprocessing.
        queue_ms: Milliseconds it waited for a thread or a stream.
        infer_ms: Milliseconds its batch ran.
        batch_size: Images in its batch.
    """

    logits: npt.NDArray[np.float32]
    decode_ms: float
    queue_ms: float
    infer_ms: float
    batch_size: int


class Pipeline(Protocol):
    """Runs images; belongs to one event loop."""

    async def run(self, image: bytes, reservation: Reservation) -> StagedInference:
        """Run one image file.

        Raises:
            ClientError: What is wrong with the file; Overloaded where the reservation
                expired before work on the image began.
        """


class Infer(Protocol):
    """The forward pass; see `Executor.run`."""

    def __call__(self, batch: Batch, alone: Alone) -> Logits:
        """Logits of a batch."""


class DirectPipeline:
    """Decodes and infers one image in one thread.

    For engines that gain nothing from larger batches: images are served in order of arrival,
    each has a core of its own, and none changes threads between decoding and inference.
    Where the same work was spread over two pools, the decoding of later images delayed the
    inference of earlier ones.

    Args:
        threads: Images at a time; the engine must have as many streams, or calls wait.
    """

    def __init__(self, to_input: ToInput, infer: Infer, threads: int) -> None:
        self._to_input = to_input
        self._infer = infer
        self._to_come: set[object] = set()
        self._pool = ThreadPoolExecutor(threads, "classify")

    async def run(self, image: bytes, reservation: Reservation) -> StagedInference:
        """See `Pipeline.run`."""
        loop = asyncio.get_running_loop()
        own = object()
        self._to_come.add(own)

        def alone() -> bool:
            self._to_come.discard(own)
            return not self._to_come

        try:
            return await loop.run_in_executor(
                self._pool, self._run, image, reservation, alone, time.perf_counter()
            )
        finally:  # it failed before its turn, or its caller left
            self._to_come.discard(own)

    def _run(
        self, image: bytes, reservation: Reservation, alone: Alone, arrived: float
    ) -> StagedInference:
        reservation.refuse_if_expired()
        begun = time.perf_counter()
        inputs = self._to_input(image)
        decoded = time.perf_counter()
        logits = self._infer(inputs[np.newaxis], alone)[0]
        return StagedInference(
            logits=logits,
            decode_ms=(decoded - begun) * 1e3,
            queue_ms=(begun - arrived) * 1e3,
            infer_ms=(time.perf_counter() - decoded) * 1e3,
            batch_size=1,
        )


class BatchedPipeline:
    """Decodes in threads, each image alone, and infers through a batcher.

    Args:
        threads: Images decoded at a time.
    """

    def __init__(self, to_input: ToInput, batcher: Batcher, threads: int) -> None:
        self._to_input = to_input
        self._batcher = batcher
        self._pool = ThreadPoolExecutor(threads, "decode")

    async def run(self, image: bytes, reservation: Reservation) -> StagedInference:
        """See `Pipeline.run`."""
        loop = asyncio.get_running_loop()
        arrived = time.perf_counter()
        # Alone, before batching: a bad file never touches a neighbour.
        inputs, begun, decoded = await loop.run_in_executor(
            self._pool, self._decode, image, reservation
        )
        result = await self._batcher.submit(inputs, reservation)
        return StagedInference(
            logits=result.logits,
            decode_ms=(decoded - begun) * 1e3,
            queue_ms=(begun - arrived) * 1e3 + result.queue_ms,
            infer_ms=result.infer_ms,
            batch_size=result.batch_size,
        )

    def _decode(
        self, image: bytes, reservation: Reservation
    ) -> tuple[npt.NDArray[np.generic], float, float]:
        reservation.refuse_if_expired()
        begun = time.perf_counter()
        return self._to_input(image), begun, time.perf_counter()


COALESCED = 64
"""Inputs of one call to a runner, at most: 64 of 224x224x3 bytes are 10 MB."""
CALLS_IN_FLIGHT = 2
"""Calls to a runner at a time: one runs while the next one travels."""


def embedded_pipeline(executor: Executor, to_input: ToInput, cores: int) -> Pipeline:
    """A pipeline whose executor lives in this process.

    Args:
        cores: Images decoded at a time.
    """
    plan = executor.plan
    if plan.batch_sizes == (1,):
        return DirectPipeline(to_input, executor.run, max(cores, plan.streams))
    pool = ThreadPoolExecutor(plan.streams, "batch")

    async def run_batch(batch: Batch) -> Logits:
        # A batch of one is what a stream gets where nothing else waits.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, executor.run, batch, lambda: batcher.idle)

    batcher = Batcher(run_batch, max_batch_size=plan.batch_sizes[-1], concurrency=plan.streams)
    return BatchedPipeline(to_input, batcher, cores)


def remote_pipeline(
    run_remotely: RunBatch, to_input: ToInput, cores: int, *, image_ms: float, budget_ms: float
) -> Pipeline:
    """A pipeline whose executor is behind a call, which is paid for by the batch.

    Args:
        run_remotely: Makes the call.
        cores: Images decoded at a time.
        image_ms: Milliseconds an image costs there at full load.
        budget_ms: A call carries no more than half of it has time for.
    """
    fitting = max(1, min(COALESCED, int(budget_ms / 2 / image_ms)))
    batcher = Batcher(run_remotely, max_batch_size=fitting, concurrency=CALLS_IN_FLIGHT)
    return BatchedPipeline(to_input, batcher, cores)
