"""Runners: they run the network in this process or in another, and watch its runs."""

import asyncio
import functools
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np

from image_classifier.artifact.record import ImportRecord, Plan
from image_classifier.errors import NotReady
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.executor import Executor
from image_classifier.inference.machine import ABSENT_GPU
from image_classifier.inference.shared_inputs import SharedInputs
from image_classifier.inference.startup import StartStep
from preprocessing import InputSpec

MAX_CALL_INPUTS = 64
"""Maximum number of inputs in a call to another process: 64 of 224x224x3 bytes are 10 MB."""
CALLS_IN_FLIGHT = 2
"""Concurrent calls to another process: one runs while the next is transferred."""
CALL_TIMEOUT_S = 30
PROBE_TIMEOUT_S = 2
STALLED_S = 8.0
"""Seconds after which a run of the engine counts as hung: longer than the default of
CLASSIFIER_TIMEOUT_MS, and short enough for /livez to report it within 10 s."""

Result = TypeVar("Result")


class EngineWatch:
    """Watches the runs of an engine. Thread-safe.

    Attributes:
        stalled_s: Seconds after which a run counts as hung.
        failing: Whether the last finished run failed, perhaps only because of its input.
    """

    def __init__(self) -> None:
        self.failing = False
        self.stalled_s = STALLED_S
        self._started: dict[object, float] = {}

    @contextmanager
    def run(self) -> Iterator[None]:
        """Watch the block, which is one run."""
        run = object()
        self._started[run] = time.monotonic()
        try:
            yield
        except Exception:
            self.failing = True
            raise
        else:
            self.failing = False
        finally:
            del self._started[run]

    @property
    def stalled(self) -> bool:
        """Whether a run has taken too long."""
        now = time.monotonic()
        return any(now - started > self.stalled_s for started in self._started.copy().values())


class RunnerDescription(NamedTuple):
    """How the network runs, and how its process started.

    Attributes:
        plan: Plan that the network runs by.
        accelerator: Name of the GPU, or None.
        start_steps: Start steps of the process that owns the network, if that is another one.
    """

    plan: Plan
    accelerator: str | None
    start_steps: list[StartStep]


class LocalRunner:
    """Runs batches in threads of this process. Belongs to one event loop.

    Attributes:
        watch: Watches the runs.
        executor: Owns the network.
        max_batch_size: Maximum number of inputs in a batch.
        concurrency: Number of concurrent batches.
        service_time_ms: Measured milliseconds per image at full load.
    """

    def __init__(self, executor: Executor) -> None:
        self.watch = EngineWatch()
        self.executor = executor
        self.max_batch_size = executor.plan.batch_sizes[-1]
        self.concurrency = executor.plan.streams
        self.service_time_ms = executor.plan.service_time_ms
        self._threads = ThreadPoolExecutor(self.concurrency, "batch")

    async def run(self, batch: Batch) -> Logits:
        """Run a batch.

        Args:
            batch: (n, H, W, C) of the manifest's dtype, n in 1..max_batch_size.

        Returns:
            Logits, float32, shape (n, classes), row i for input i.
        """
        loop = asyncio.get_running_loop()
        with self.watch.run():
            return await loop.run_in_executor(self._threads, self.executor.run, batch)

    async def is_ready(self) -> bool:
        """Return True: the executor was loaded and checked before this object was made."""
        return True

    async def describe(self) -> RunnerDescription:
        """Return how the network runs."""
        return RunnerDescription(self.executor.plan, self.executor.accelerator, [])


class RemoteRunner:
    """Runs batches in the process of a BentoML service; has the attributes of `LocalRunner`.

    Inputs are passed in shared memory, or in the call itself if the other process cannot open
    the memory.

    Args:
        proxy: The dependency on a service (`bentoml.depends`) with the methods `infer`, which
            takes a batch and returns logits; `can_open`, which returns whether it can read the
            memory at a `SharedInputs.address`; and `describe`, which returns the fields of
            `RunnerDescription` as JSON.
        exchange: Calls `RunnerCalls` in that process: a `Place` as JSON to logits as bytes.
        record: Measurements of the import.
        input_spec: Shape and dtype of an input.
        budget_ms: Target latency of an answer; a call has as many inputs as take half of it.
        unavailable: Exception of `proxy` if the service does not accept a call.
    """

    executor = None
    concurrency = CALLS_IN_FLIGHT

    def __init__(
        self,
        proxy: Any,
        exchange: Callable[[bytes], Awaitable[bytes]],
        record: ImportRecord,
        input_spec: InputSpec,
        budget_ms: float,
        unavailable: type[Exception],
    ) -> None:
        self.service_time_ms, self.max_batch_size = 1.0, MAX_CALL_INPUTS
        if record.machine.accelerator != ABSENT_GPU:  # else a CPU was measured
            self.service_time_ms = record.plan.service_time_ms
            fitting = int(budget_ms / 2 / record.network_time_ms)
            self.max_batch_size = max(1, min(MAX_CALL_INPUTS, fitting))
        self.watch = EngineWatch()
        self._shared: SharedInputs | None = None
        if hasattr(os, "memfd_create"):  # absent from some builds of Python
            self._shared = SharedInputs(
                input_spec, calls=CALLS_IN_FLIGHT, max_batch_size=self.max_batch_size
            )
        self._opened = False
        self._proxy = proxy
        self._exchange = exchange
        self._unavailable = unavailable

    async def run(self, batch: Batch) -> Logits:
        """Run a batch, see `LocalRunner.run`; raise NotReady if the service cannot be reached."""
        infer: Any = self._proxy.to_async
        with self.watch.run():
            shared = await self._shared_memory()
            if shared is None or shared.full:
                return await self._call(functools.partial(infer.infer, batch), CALL_TIMEOUT_S)
            with shared.holding(batch) as place:
                call = functools.partial(self._exchange, json.dumps(place).encode())
                logits = np.frombuffer(await self._call(call, CALL_TIMEOUT_S), np.float32)
                return logits.reshape(len(batch), -1)

    async def _shared_memory(self) -> SharedInputs | None:
        if self._shared is not None and not self._opened:
            can_open = functools.partial(self._proxy.to_async.can_open, *self._shared.address)
            self._opened = await self._call(can_open, CALL_TIMEOUT_S)  # queues behind batches
            if not self._opened:
                self._shared = None
        return self._shared

    async def is_ready(self) -> bool:
        """Query the readiness probe of the service; its methods would wait for running batches."""
        try:
            return bool(await self._call(self._proxy.is_ready, PROBE_TIMEOUT_S))
        except NotReady:
            return False

    async def describe(self) -> RunnerDescription:
        """Query the service; raise NotReady if it cannot be reached."""
        plan, *fields = await self._call(self._proxy.to_async.describe, PROBE_TIMEOUT_S)
        return RunnerDescription(Plan.model_validate(plan), *fields)

    async def _call(self, call: Callable[[], Awaitable[Result]], timeout_s: float) -> Result:
        # Imported here: the embedded topology does not need it and starts 0.1 s sooner.
        import aiohttp

        try:
            async with asyncio.timeout(timeout_s):
                try:
                    return await call()
                except aiohttp.ClientConnectionError:
                    # The connection may lead to a process that has ended; a retry takes another.
                    return await call()
        except (aiohttp.ClientError, TimeoutError, self._unavailable) as error:
            raise NotReady("the model cannot be reached; try again") from error


Runner = LocalRunner | RemoteRunner
