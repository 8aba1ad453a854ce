"""What turns concurrent requests into batches."""

import asyncio
import functools
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_classifier.errors import Overloaded
from image_classifier.inference.admission import Reservation
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.executor import EngineFault
from preprocessing.errors import ClientError

RunBatch = Callable[[Batch], Awaitable[Logits]]
"""Runs (n, H, W, C) inputs; row i of the answer belongs to input i."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inference:
    """What came of one input.

    Attributes:
        logits: float32, shape (classes,).
        queue_ms: Milliseconds it waited for a free stream.
        infer_ms: Milliseconds its batch ran.
        batch_size: Inputs in its batch.
    """

    logits: npt.NDArray[np.float32]
    queue_ms: float
    infer_ms: float
    batch_size: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Waiting:
    inputs: npt.NDArray[np.generic]
    answer: asyncio.Future[Inference]
    since: float
    reservation: Reservation | None


class Batcher:
    """Work-conserving: a free stream never waits for a batch to fill.

    What arrives while all streams are busy forms the next batch, in order of arrival, up to
    `max_batch_size`. A failing batch is run again item by item, once, so that one poisonous
    input fails alone. An input whose caller was cancelled, or whose reservation expired, before
    its batch started is not run.

    Belongs to one event loop; not thread-safe.

    Args:
        run_batch: Called with at most `concurrency` batches at a time.
        max_batch_size: Inputs of one batch.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        run_batch: RunBatch,
        *,
        max_batch_size: int,
        concurrency: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run_batch = run_batch
        self._max_batch_size = max_batch_size
        self._concurrency = concurrency
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    async def submit(
        self, inputs: npt.NDArray[np.generic], reservation: Reservation | None = None
    ) -> Inference:
        """Run one input, shape (H, W, C), with whatever else is waiting.

        Raises:
            Overloaded: The reservation expired before the input's batch started.
            Exception: What `run_batch` raised for this input alone.
        """
        answer: asyncio.Future[Inference] = asyncio.get_running_loop().create_future()
        self._waiting.append(
            _Waiting(inputs=inputs, answer=answer, since=self._clock(), reservation=reservation)
        )
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
                task.add_done_callback(functools.partial(self._finish, batch))

    def _finish(self, batch: list[_Waiting], task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if task.cancelled():  # the engine's threads were ended: nobody may wait for ever
            for item in batch:
                _fail(item, EngineFault("the engine was ended before it answered"))
        self._start_batches()

    async def _answer(self, batch: list[_Waiting]) -> None:
        try:
            await self._run(batch)
        # Whatever a model raises is the answer to those in its batch, never to the loop.
        except Exception as error:
            # What the client is told (the runner cannot be reached) is no input's fault.
            if len(batch) == 1 or isinstance(error, ClientError):
                for item in batch:
                    _fail(item, error)
                return
            for item in batch:
                if item.answer.done():  # its caller left meanwhile
                    continue
                try:
                    await self._run([item])
                except Exception as alone:
                    _fail(item, alone)

    async def _run(self, batch: list[_Waiting]) -> None:
        started = self._clock()
        logits = await self._run_batch(np.stack([item.inputs for item in batch]))
        if len(logits) != len(batch):
            raise EngineFault(f"{len(logits)} rows of logits for a batch of {len(batch)}")
        infer_ms = (self._clock() - started) * 1e3
        for item, row in zip(batch, logits, strict=True):
            if not item.answer.done():
                item.answer.set_result(
                    Inference(
                        logits=row,
                        queue_ms=(started - item.since) * 1e3,
                        infer_ms=infer_ms,
                        batch_size=len(batch),
                    )
                )


def _fail(item: _Waiting, error: Exception) -> None:
    if not item.answer.done():
        item.answer.set_exception(error)
