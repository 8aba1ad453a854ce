"""How an image gets from its file to its logits: which threads decode it and run the network."""

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from image_classifier.inference.admission import Reservation
from image_classifier.inference.batcher import Answer, Batcher
from image_classifier.inference.engine import EngineError
from image_classifier.inference.runner import LocalRunner

TURN_S = 0.005
"""Seconds of images in one iteration of the event loop: a tenth of the default budget. Longer
turns answer no more (docs/plan.md)."""
MAX_IMAGE_S = 0.01
"""Longest processor time of an image in the event loop."""
MAX_FILE_BYTES = 1 << 17
"""Larger files are not decoded in the event loop: a JPEG of 128 KiB takes 3 ms of a core."""
PAUSE_S = 10.0
"""Seconds without images in the event loop after one that took longer than `MAX_IMAGE_S`."""


class LoopExecutor:
    """Runs short calls in the event loop, in the order of their submission.

    For a process with one core: threads would only take turns with the event loop, and each
    change of threads costs more than the network (docs/plan.md). Calls that wait are run from the
    next iteration of the loop on, for `TURN_S` at a time; in between the loop reads and refuses
    requests. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Answer], asyncio.Future[Answer]]] = deque()
        self._paused_until_s = 0.0

    def accepts(self, data: bytes) -> bool:
        """Return whether an image file is expected to take at most `MAX_IMAGE_S`.

        A small file can have many pixels: after one that took longer, no file is accepted for
        `PAUSE_S`.
        """
        return len(data) <= MAX_FILE_BYTES and time.monotonic() >= self._paused_until_s

    async def run(self, call: Callable[[], Answer]) -> Answer:
        """Return the result of a call, or raise its exception."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._run_turn)
        self._waiting.append((call, result))
        return await result

    def _run_turn(self) -> None:
        end_s = time.perf_counter() + TURN_S
        while self._waiting and time.perf_counter() < end_s:
            call, result = self._waiting.popleft()
            if not result.done():  # else its caller was cancelled
                self._run(call, result)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run_turn)

    def _run(self, call: Callable[[], Answer], result: asyncio.Future[Answer]) -> None:
        begun_s = time.thread_time()
        try:
            result.set_result(call())
        except Exception as error:  # user code and engines raise anything
            result.set_exception(error)
        if time.thread_time() - begun_s > MAX_IMAGE_S:
            self._paused_until_s = time.monotonic() + PAUSE_S


class DirectPipeline:
    """Decodes an image and runs it in the same thread, for engines with a batch size of one.

    With two thread pools, decoding of later images would delay inference of earlier ones.

    Args:
        preprocess: Converts a file to an input, (H, W, C); raises ImageRejected for a bad file.
        runner: Has the executor and watches its runs.
        threads: Number of concurrent images, at least the executor's streams.
        in_loop: Whether images that are expected to be short run in the event loop instead.
    """

    def __init__(
        self,
        preprocess: Callable[[bytes], npt.NDArray[np.generic]],
        runner: LocalRunner,
        threads: int,
        *,
        in_loop: bool,
    ) -> None:
        self._preprocess = preprocess
        self._runner = runner
        self._loop_executor = LoopExecutor() if in_loop else None
        self._before_inference: set[object] = set()
        self._pool = ThreadPoolExecutor(threads, "classify")

    async def run(self, data: bytes, reservation: Reservation) -> Answer:
        """Run one image file; the answer has no predictions yet.

        Raises:
            ClientError: The file is invalid; Overloaded if the reservation expired before work
                on the image began.
        """
        loop = asyncio.get_running_loop()
        image = object()
        run = functools.partial(self._run, data, reservation, image, time.perf_counter())
        self._before_inference.add(image)
        try:
            if self._loop_executor is not None and self._loop_executor.accepts(data):
                return await self._loop_executor.run(run)
            return await loop.run_in_executor(self._pool, run)
        finally:  # decoding failed, or the caller was cancelled
            self._before_inference.discard(image)

    def _run(self, data: bytes, reservation: Reservation, image: object, arrived: float) -> Answer:
        reservation.refuse_if_expired()
        started = time.perf_counter()
        batch = self._preprocess(data)[np.newaxis]
        decoded = time.perf_counter()
        if image not in self._before_inference:  # the caller was cancelled during decoding
            raise EngineError("not run: the request was cancelled")
        self._before_inference.discard(image)
        with self._runner.watch.run():
            logits = self._runner.executor.run(batch, more_expected=bool(self._before_inference))
        return Answer(
            logits=logits[0],
            decode_ms=(decoded - started) * 1e3,
            queue_ms=(started - arrived) * 1e3,
            infer_ms=(time.perf_counter() - decoded) * 1e3,
            batch_size=1,
        )


class BatchedPipeline:
    """Decodes each image in a thread, then runs the inputs in batches.

    Args:
        preprocess: See `DirectPipeline`.
        batcher: Runs the inputs.
        threads: Number of images decoded concurrently.
    """

    def __init__(
        self, preprocess: Callable[[bytes], npt.NDArray[np.generic]], batcher: Batcher, threads: int
    ) -> None:
        self._preprocess = preprocess
        self._batcher = batcher
        self._pool = ThreadPoolExecutor(threads, "decode")

    async def run(self, data: bytes, reservation: Reservation) -> Answer:
        """Run one image file; see `DirectPipeline.run`."""
        loop = asyncio.get_running_loop()
        arrived = time.perf_counter()
        # Decoded before batching: a bad file never affects another image.
        model_input, started, decoded = await loop.run_in_executor(
            self._pool, self._decode, data, reservation
        )
        answer = await self._batcher.submit(model_input, reservation)
        return replace(
            answer,
            decode_ms=(decoded - started) * 1e3,
            queue_ms=(started - arrived) * 1e3 + answer.queue_ms,
        )

    def _decode(
        self, data: bytes, reservation: Reservation
    ) -> tuple[npt.NDArray[np.generic], float, float]:
        reservation.refuse_if_expired()
        started = time.perf_counter()
        return self._preprocess(data), started, time.perf_counter()
