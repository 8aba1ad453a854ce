"""From the bytes of an image file to ranked predictions."""

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from image_classifier.artifact.artifact import Artifact
from image_classifier.errors import DeadlineExceeded, MalformedRequest
from image_classifier.inference.admission import Admission, Reservation
from image_classifier.inference.batcher import Answer, Batcher
from image_classifier.inference.engine import EngineError
from image_classifier.inference.heartbeat import Heartbeat
from image_classifier.inference.predictions import top_k_predictions
from image_classifier.inference.runner import PROBE_TIMEOUT_S, STALLED_S, LocalRunner, Runner
from image_classifier.settings import Settings
from preprocessing import to_input

TURN_S = 0.005
"""Seconds of images in one iteration of the event loop: a tenth of the default budget. Longer
turns answer no more (docs/plan.md)."""
MAX_IMAGE_S = 0.01
"""Longest processor time of an image in the event loop. A small file can have many pixels: after
one that took longer, images go to a thread for `PAUSE_S`."""
MAX_FILE_BYTES = 1 << 17
"""Larger files are not decoded in the event loop: a JPEG of 128 KiB takes 3 ms of a core."""
PAUSE_S = 10.0
"""Seconds without images in the event loop after one that took long."""

Result = TypeVar("Result")


class Classifier:
    """Classifies images, one per call. Belongs to one event loop.

    Args:
        artifact: Has the preprocessing, the labels and the meaning of the logits.
        runner: Runs the network.
        settings: Limits of files, waits and requests in flight; default number of predictions.
        cores: Cores of the machine.
        workers: API processes that share the cores and the network.
        shared_folder: Folder that these processes share; see `Admission` and `Heartbeat`.

    Attributes:
        preprocessing: Converts an image to an input.
        outputs: Meaning of the logits.
        num_classes: Number of labels: the largest `top_k`.
    """

    def __init__(
        self,
        artifact: Artifact,
        runner: Runner,
        settings: Settings,
        *,
        cores: int,
        workers: int,
        shared_folder: Path | None = None,
    ) -> None:
        self.runner = runner
        self.outputs = artifact.manifest.outputs
        self.preprocessing = artifact.preprocessing
        self._labels = artifact.labels()
        self.num_classes = len(self._labels)
        self._timeout_ms = settings.timeout_ms
        self._default_top_k = min(settings.default_top_k, self.num_classes)
        if self.outputs.threshold is not None:
            self._default_top_k = self.num_classes
        self._admission = Admission(
            max_in_flight=settings.max_queue,
            max_wait_ms=settings.longest_wait_ms,
            overload_wait_range_ms=settings.overload_wait_range_ms,
            answer_interval_ms=runner.service_time_ms * workers,
            parallel=cores,
            shared_folder=shared_folder if workers > 1 else None,
        )
        # A run may take as long as the timeout of a request.
        runner.watch.stalled_s = max(STALLED_S, settings.timeout_ms / 1e3)
        self._heartbeat: Heartbeat | None = None
        if shared_folder is not None and workers > 1:
            self._heartbeat = Heartbeat(shared_folder, lambda: runner.watch.stalled)
            self._heartbeat.beat()
        input_spec = artifact.manifest.input
        self._blank = np.zeros((1, *input_spec.shape), input_spec.dtype)
        preprocess = functools.partial(
            to_input, preprocessing=self.preprocessing, limits=settings.decode_limits
        )
        threads = max(1, cores // workers)
        local = runner if isinstance(runner, LocalRunner) and runner.max_batch_size == 1 else None
        if local is not None:
            threads = max(threads, local.concurrency)
        core_s = runner.service_time_ms * cores / 1e3  # one core's time for an image
        executor = ImageExecutor(threads, in_loop=threads == 1 and core_s <= MAX_IMAGE_S)
        self._pipeline: DirectPipeline | BatchedPipeline
        if local is not None:
            self._pipeline = DirectPipeline(preprocess, local, executor)
        else:
            size, concurrency = runner.max_batch_size, runner.concurrency
            batcher = Batcher(runner.run, max_batch_size=size, concurrency=concurrency)
            self._pipeline = BatchedPipeline(preprocess, batcher, executor)

    def refuse_if_overloaded(self) -> None:
        """Raise Overloaded if an image would be refused now."""
        self._admission.refuse_if_overloaded()

    async def is_alive(self) -> bool:
        """Return False if the engine hangs, or its last run failed and a blank input fails too.

        Also if another API process of this server hangs: the probe reaches any one of them.
        """
        if self.runner.watch.stalled or (self._heartbeat and not self._heartbeat.all_work()):
            return False
        if not self.runner.watch.failing:
            return True
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self.runner.run(self._blank)
        except Exception:  # an engine may raise any exception
            return False
        return True

    async def classify(self, data: bytes, top_k: int | None) -> Answer:
        """Classify one image.

        Args:
            data: A JPEG, PNG, WebP, GIF or BMP file.
            top_k: Number of predictions, in 1..classes. None takes the default; with a
                threshold, all classes.

        Raises:
            ClientError: The file or `top_k` is invalid; Overloaded; DeadlineExceeded; NotReady.
        """
        if top_k is None:
            top_k = self._default_top_k
        elif not 1 <= top_k <= self.num_classes:
            raise MalformedRequest(f"top_k is {top_k}; expected 1..{self.num_classes}")
        with self._admission.reserve() as reservation:
            try:
                async with asyncio.timeout(self._timeout_ms / 1e3):
                    answer = await self._pipeline.run(data, reservation)
            except TimeoutError as error:
                raise DeadlineExceeded(f"no answer within {self._timeout_ms:.0f} ms") from error
        predictions = top_k_predictions(answer.logits, self._labels, top_k, self.outputs)
        return replace(answer, predictions=predictions)


class ImageExecutor:
    """Runs the work on images in threads, or in the event loop. Belongs to one event loop.

    In a process with one core, threads would only take turns with the event loop, and each change
    of threads costs more than a small network (docs/plan.md). There, short work runs in the loop:
    from its next iteration on, in the order of arrival, for `TURN_S` at a time. In between the
    loop reads and refuses requests.

    Args:
        threads: Number of concurrent images.
        in_loop: Whether short work runs in the event loop.
    """

    def __init__(self, threads: int, *, in_loop: bool) -> None:
        self._in_loop = in_loop
        self._pool = ThreadPoolExecutor(threads, "image")
        self._waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._paused_until_s = 0.0

    async def run(self, data: bytes, work: Callable[[], Result]) -> Result:
        """Return the result of the work on an image file, not None, or raise its exception."""
        loop = asyncio.get_running_loop()
        if self._in_loop and len(data) <= MAX_FILE_BYTES and not self._pauses():
            result: asyncio.Future[Result | None] = loop.create_future()
            if not self._waiting:
                loop.call_soon(self._run_turn)
            self._waiting.append((work, result))
            if (done := await result) is not None:
                return done
        return await loop.run_in_executor(self._pool, work)

    def _pauses(self) -> bool:
        return time.monotonic() < self._paused_until_s

    def _run_turn(self) -> None:
        end_s = time.perf_counter() + TURN_S
        while self._waiting and time.perf_counter() < end_s:
            work, result = self._waiting.popleft()
            if result.done():  # its caller was cancelled
                continue
            if self._pauses():
                result.set_result(None)  # moves to a thread
            else:
                self._run_work(work, result)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run_turn)

    def _run_work(self, work: Callable[[], Any], result: asyncio.Future[Any]) -> None:
        begun_s = time.thread_time()
        try:
            result.set_result(work())
        except Exception as error:  # user code and engines raise anything
            result.set_exception(error)
        if time.thread_time() - begun_s > MAX_IMAGE_S:
            self._paused_until_s = time.monotonic() + PAUSE_S


class DirectPipeline:
    """Decodes an image and runs it in the same thread, for engines with a batch size of one.

    With two thread pools, decoding of later images would delay inference of earlier ones.

    Args:
        preprocess: Converts a file to an input, (H, W, C); raises ImageRejected for a bad file.
        runner: Has the network and watches its runs.
        executor: Runs as many images at once as the network has streams, or more.
    """

    def __init__(
        self,
        preprocess: Callable[[bytes], npt.NDArray[np.generic]],
        runner: LocalRunner,
        executor: ImageExecutor,
    ) -> None:
        self._preprocess = preprocess
        self._runner = runner
        self._executor = executor
        self._before_inference: set[object] = set()

    async def run(self, data: bytes, reservation: Reservation) -> Answer:
        """Run one image file; the answer has no predictions yet.

        Raises:
            ClientError: The file is invalid; Overloaded if the reservation expired before work
                on the image began.
        """
        image = object()
        work = functools.partial(self._run, data, reservation, image, time.perf_counter())
        self._before_inference.add(image)
        try:
            return await self._executor.run(data, work)
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
    """Decodes each image by itself, then runs the inputs in batches.

    Args:
        preprocess: See `DirectPipeline`.
        batcher: Runs the inputs.
        executor: Decodes.
    """

    def __init__(
        self,
        preprocess: Callable[[bytes], npt.NDArray[np.generic]],
        batcher: Batcher,
        executor: ImageExecutor,
    ) -> None:
        self._preprocess = preprocess
        self._batcher = batcher
        self._executor = executor

    async def run(self, data: bytes, reservation: Reservation) -> Answer:
        """Run one image file; see `DirectPipeline.run`."""
        arrived = time.perf_counter()
        # Decoded before batching: a bad file never affects another image.
        decode = functools.partial(self._decode, data, reservation)
        model_input, started, decoded = await self._executor.run(data, decode)
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
