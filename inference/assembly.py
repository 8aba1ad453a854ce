"""Puts a pipeline together: for an executor in this process, or for one behind a call."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from inference.batcher import Batcher, RunBatch
from inference.engines import Batch, Logits
from inference.executor import Executor
from inference.pipeline import BatchedPipeline, DirectPipeline, Pipeline, ToInput

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
