"""From a verified artifact to an executor that is warm and proven."""

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from artifact.opened import Artifact
from artifact.record import Plan
from inference.engines import Batch, LoadEngine, open_graph
from inference.executor import Executor
from inference.latency import measure_curve, plan_for
from inference.machine import this_machine, usable_cores
from inference.self_check import check_engine, golden_inputs

REMEASURE_SECONDS = 0.05
"""Of one point of the curve, where the machine is not the one of the import: 15 points at most
for two numbers of streams, so that a start takes about a second longer."""


def load_executor(
    artifact: Artifact, *, engine: str | None, budget_ms: float, deterministic: bool
) -> Executor:
    """Load, warm up and check the engine that serves.

    Args:
        engine: Name of a certified engine; None takes the plan's.
        budget_ms: Latency an answer may take.
        deterministic: One fixed batch shape for everything.

    Raises:
        ArtifactError: The engine cannot be loaded, or does not reproduce its certificate.
    """
    samples, preprocessing = artifact.golden_samples(), artifact.preprocessing()
    with ThreadPoolExecutor(1, "golden") as pool:
        # They are decoded while the engine is compiled: a start is quicker by a tenth of a second.
        inputs = pool.submit(golden_inputs, samples, preprocessing)
        record, signature = artifact.record, artifact.manifest.preprocessing
        unnamed = record.plan.engine if record else artifact.manifest.engines[0].name
        entry = artifact.manifest.engine(engine or unnamed)
        load = open_graph(entry, artifact.root, signature.input_shape)
        plan = _plan(artifact, entry.name, budget_ms, load, inputs.result)
        if deterministic:
            plan = plan.model_copy(update={"batch_sizes": plan.batch_sizes[:1], "solo": False})
        executor = Executor(
            load(plan),
            plan,
            signature,
            artifact.manifest.num_classes,
            solo=load(_alone(plan)) if plan.solo else None,
        )
    executor.warmup()
    check_engine(artifact, entry, executor, inputs.result())
    return executor


def _alone(plan: Plan) -> Plan:
    return plan.model_copy(update={"streams": 1, "batch_sizes": (1,)})


def freeze_garbage() -> None:
    """Leave all that was loaded out of garbage collection.

    A full collection over what importing the libraries made stalls a process for 150 to
    190 ms (measured with torch and bentoml 1.4.39): long beyond the budget of a request.
    """
    gc.collect()
    gc.freeze()


def _plan(
    artifact: Artifact, engine: str, budget_ms: float, load: LoadEngine, inputs: Callable[[], Batch]
) -> Plan:
    record = artifact.record
    if record is not None and record.machine == this_machine(record.machine.accelerator):
        if (engine, budget_ms) == (record.plan.engine, record.budget_ms):
            return record.plan
        if curve := record.curve(engine):
            return plan_for(engine, curve, budget_ms)
    curve = measure_curve(
        load, inputs(), usable_cores(), budget_ms=budget_ms, seconds=REMEASURE_SECONDS
    )
    return plan_for(engine, curve, budget_ms)
