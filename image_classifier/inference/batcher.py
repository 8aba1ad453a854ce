"""Turns concurrent requests into batches."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_classifier.errors import Overloaded
from image_classifier.inference.admission import Reservation
from image_classifier.inference.engine import Batch, EngineError, Logits
from image_classifier.inference.predictions import Prediction, Score
from preprocessing.errors import ClientError


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The result of one image: its logits, how long each stage took, its predictions.

    Attributes:
        logits: float32, shape (classes,).
        decode_ms: Duration of decoding and preprocessing; 0 until the classifier sets it.
        queue_ms: Wait for a thread and for a free stream.
        infer_ms: Duration of its batch in the engine.
        batch_size: Number of inputs in its batch.
        predictions: Most probable first; empty until the classifier sets them.
    """

    logits: npt.NDArray[np.float32]
    decode_ms: float = 0.0
    queue_ms: float
    infer_ms: float
    batch_size: int
    predictions: tuple[Prediction | Score, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    model_input: npt.NDArray[np.generic]
    answer: asyncio.Future[Answer]
    since: float
    reservation: Reservation | None


class Batcher:
    """Forms batches without delay: a free stream never waits for a batch to fill.

    Inputs that arrive while all streams are busy form the next batch, in order of arrival, up to
    `max_batch_size`. The inputs of a failed batch are run again one by one, once, so that only the
    bad input fails. Inputs of cancelled callers, and inputs whose reservation expired, are not run.

    Belongs to one event loop; not thread-safe.

    Args:
        run: Runs a batch, (n, H, W, C), and returns its logits, row i for input i, as
            `Runner.run`. Called with at most `concurrency` batches at a time.
        max_batch_size: Inputs of one batch.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        run: Callable[[Batch], Awaitable[Logits]],
        *,
        max_batch_size: int,
        concurrency: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run = run
        self._max_batch_size = max_batch_size
        self._concurrency = concurrency
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def submit(
        self, model_input: npt.NDArray[np.generic], reservation: Reservation | None = None
    ) -> Answer:
        """Run one input, shape (H, W, C), in a batch with other waiting inputs.

        Raises:
            Overloaded: The reservation expired before the input's batch started.
            Exception: What `run` raised for this input alone.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(model_input, answer, self._clock(), reservation))
        self._start_batches()
        return await answer

    def _start_batches(self) -> None:
        while self._waiting and len(self._running) < self._concurrency:
            batch: list[_Waiting] = []
            while self._waiting and len(batch) < self._max_batch_size:
                item = self._waiting.popleft()
                if item.answer.done():  # its caller was cancelled
                    continue
                try:
                    if item.reservation is not None:
                        item.reservation.refuse_if_expired()
                except Overloaded as error:
                    _fail(item, error)
                else:
                    batch.append(item)
            if batch:
                task = asyncio.get_running_loop().create_task(self._answer(batch))
                self._running.add(task)
                task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start_batches()

    async def _answer(self, batch: list[_Waiting]) -> None:
        try:
            await self._run_batch(batch)
        # An engine may raise any exception; the callers of its batch get it.
        except Exception as error:
            # A ClientError (the runner cannot be reached) is not caused by an input.
            if len(batch) == 1 or isinstance(error, ClientError):
                for item in batch:
                    _fail(item, error)
                return
            for item in batch:
                if item.answer.done():  # its caller was cancelled meanwhile
                    continue
                try:
                    await self._run_batch([item])
                except Exception as own_error:
                    _fail(item, own_error)

    async def _run_batch(self, batch: list[_Waiting]) -> None:
        started = self._clock()
        logits = await self._run(np.stack([item.model_input for item in batch]))
        if len(logits) != len(batch):
            raise EngineError(f"{len(logits)} rows of logits for a batch of {len(batch)}")
        infer_ms = (self._clock() - started) * 1e3
        for item, row in zip(batch, logits, strict=True):
            if not item.answer.done():
                item.answer.set_result(
                    Answer(
                        logits=row,
                        queue_ms=(started - item.since) * 1e3,
                        infer_ms=infer_ms,
                        batch_size=len(batch),
                    )
                )


def _fail(item: _Waiting, error: Exception) -> None:
    if not item.answer.done():
        item.answer.set_exception(error)
