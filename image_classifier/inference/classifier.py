"""From the bytes of an image file to ranked predictions."""

import asyncio
import functools
from dataclasses import replace
from pathlib import Path

import numpy as np

from image_classifier.artifact.artifact import Artifact
from image_classifier.errors import DeadlineExceeded, MalformedRequest
from image_classifier.inference.admission import Admission
from image_classifier.inference.batcher import Answer, Batcher
from image_classifier.inference.heartbeat import Heartbeat
from image_classifier.inference.pipeline import (
    MAX_IMAGE_S,
    BatchedPipeline,
    DirectPipeline,
    ImageExecutor,
)
from image_classifier.inference.predictions import top_k_predictions
from image_classifier.inference.runner import PROBE_TIMEOUT_S, STALLED_S, LocalRunner, Runner
from image_classifier.settings import Settings
from preprocessing import to_input


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
        image_s = runner.service_time_ms * cores / 1e3
        executor = ImageExecutor(threads, in_loop=threads == 1 and image_s <= MAX_IMAGE_S)
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
