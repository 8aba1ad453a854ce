"""Where the network runs, in this process or in one of its own, and whether it still answers."""

import asyncio
import functools
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np

from image_classifier.artifact.manifest import InputSpec
from image_classifier.artifact.record import ImportRecord, Plan
from image_classifier.errors import NotReady
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.executor import Executor
from image_classifier.inference.machine import ABSENT_GPU
from image_classifier.inference.shared_inputs import SharedInputs
from image_classifier.inference.startup import StartStep

MAX_CALL_INPUTS = 64
"""Inputs of one call to another process, at most: 64 of 224x224x3 bytes are 10 MB."""
CALLS_IN_FLIGHT = 2
"""Calls to another process at a time: one runs while the next one travels."""
CALL_TIMEOUT_S = 30
PROBE_TIMEOUT_S = 2
STALLED_S = 8.0
"""Seconds after which a run of the engine counts as hung: longer than a request may take by
default (CLASSIFIER_TIMEOUT_MS), and short enough for /livez to tell within 10 s."""

Result = TypeVar("Result")


class EngineWatch:
    """Watches the runs of an engine. Thread-safe.

    Args:
        stalled_s: Seconds after which a run counts as hung.
        clock: Monotonic seconds.

    Attributes:
        stalled_s: As given.
        failing: The last run that ended failed, perhaps because of its input alone.
    """

    def __init__(
        self, stalled_s: float = STALLED_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.failing = False
        self.stalled_s = stalled_s
        self._clock = clock
        self._started: dict[object, float] = {}

    @contextmanager
    def run(self) -> Iterator[None]:
        """Watch one run: the block."""
        run = object()
        self._started[run] = self._clock()
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
        """Whether a run has been going on for too long."""
        oldest = min(self._started.copy().values(), default=None)
        return oldest is not None and self._clock() - oldest > self.stalled_s


class RunnerDescription(NamedTuple):
    """How the network runs, and since when.

    Attributes:
        plan: By which it runs.
        accelerator: Name of the GPU it runs on; None without.
        start_steps: Of the start of the process that owns it, where that is another one.
    """

    plan: Plan
    accelerator: str | None
    start_steps: list[StartStep]


class LocalRunner:
    """Runs batches in threads of this process. Belongs to one event loop.

    Attributes:
        watch: Watches the runs.
        executor: Owns the network.
        max_batch_size: Inputs of one batch, at most.
        concurrency: Batches at a time.
        service_time_ms: Milliseconds per image at full load, as measured.
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
    """Runs batches in the process of a BentoML service; attributes as of `LocalRunner`.

    Inputs travel in memory that both processes see, where the system has that, and else with the
    call.

    Args:
        proxy: What `bentoml.depends` gives for a service with the methods `infer`, which takes a
            batch and returns logits; `can_open`, whether it reaches a `SharedInputs.address`;
            and `describe`, which returns the fields of `RunnerDescription`, as JSON.
        exchange: Calls `RunnerCalls` in that process: `Places` as bytes to logits as bytes.
        record: What the import measured; None where it is not known.
        input_spec: Shape and dtype of an input.
        budget_ms: Latency of an answer; one call carries as many inputs as take half of it.
        unavailable: What `proxy` raises where the service does not take a call.
    """

    executor = None
    concurrency = CALLS_IN_FLIGHT

    def __init__(
        self,
        proxy: Any,
        exchange: Callable[[bytes], Awaitable[bytes]],
        record: ImportRecord | None,
        input_spec: InputSpec,
        budget_ms: float,
        unavailable: type[Exception],
    ) -> None:
        if record is not None and record.machine.accelerator == ABSENT_GPU:
            record = None  # it measured the network on a processor
        self.service_time_ms = record.plan.service_time_ms if record else 1.0
        fitting = int(budget_ms / 2 / record.network_time_ms) if record else MAX_CALL_INPUTS
        self.max_batch_size = max(1, min(MAX_CALL_INPUTS, fitting))
        self.watch = EngineWatch()
        self._shared: SharedInputs | None = None
        if hasattr(os, "memfd_create"):
            self._shared = SharedInputs(
                input_spec, calls=CALLS_IN_FLIGHT, max_batch_size=self.max_batch_size
            )
        self._opened = False
        self._proxy = proxy
        self._exchange = exchange
        self._unavailable = unavailable

    async def run(self, batch: Batch) -> Logits:
        """Run a batch, see `LocalRunner.run`; raise NotReady where the service is not reached."""
        infer: Any = self._proxy.to_async
        with self.watch.run():
            shared = await self._shared_memory()
            if shared is None or shared.full:
                return await self._call(functools.partial(infer.infer, batch), CALL_TIMEOUT_S)
            with shared.holding(batch) as places:
                call = functools.partial(self._exchange, places.tobytes())
                logits = np.frombuffer(await self._call(call, CALL_TIMEOUT_S), np.float32)
                return logits.reshape(len(batch), -1)

    async def _shared_memory(self) -> SharedInputs | None:
        if self._shared is not None and not self._opened:
            can_open = functools.partial(self._proxy.to_async.can_open, *self._shared.address)
            self._opened = await self._call(can_open, CALL_TIMEOUT_S)  # waits like a batch
            if not self._opened:
                self._shared = None
        return self._shared

    async def is_ready(self) -> bool:
        """Ask the readiness probe of the service; its methods would wait for a running batch."""
        try:
            return bool(await self._call(self._proxy.is_ready, PROBE_TIMEOUT_S))
        except NotReady:
            return False

    async def describe(self) -> RunnerDescription:
        """Ask the service; raise NotReady as `run` does."""
        plan, *others = await self._call(self._proxy.to_async.describe, PROBE_TIMEOUT_S)
        return RunnerDescription(Plan.model_validate(plan), *others)

    async def _call(self, call: Callable[[], Awaitable[Result]], timeout_s: float) -> Result:
        # Imported here: embedded, the service calls no runner and would start 0.1 s later.
        import aiohttp

        try:
            async with asyncio.timeout(timeout_s):
                try:
                    return await call()
                except aiohttp.ClientConnectionError:
                    # The connection was one to a process that has ended; the second try takes
                    # another connection.
                    return await call()
        except (aiohttp.ClientError, TimeoutError, self._unavailable) as error:
            raise NotReady("the model cannot be reached; try again") from error


Runner = LocalRunner | RemoteRunner
