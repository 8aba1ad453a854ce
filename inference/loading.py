"""From a verified artifact to an executor that is warm and proven."""

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from artifact.manifest import EngineEntry
from artifact.opened import Artifact
from artifact.record import Plan
from inference.engines import Batch, load_engine
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
        entry, plan = _entry_and_plan(artifact, engine, budget_ms, inputs.result)
        if deterministic:
            plan = plan.model_copy(update={"batch_sizes": plan.batch_sizes[:1], "solo": False})
        executor = _executor(artifact, entry, plan)
    executor.warmup()
    check_engine(artifact, entry, executor, inputs.result())
    return executor


def _executor(artifact: Artifact, entry: EngineEntry, plan: Plan) -> Executor:
    signature = artifact.manifest.preprocessing
    shape = signature.input_shape
    return Executor(
        load_engine(entry, artifact.root, shape, plan),
        plan,
        signature,
        artifact.manifest.num_classes,
        solo=load_engine(entry, artifact.root, shape, _alone(plan)) if plan.solo else None,
    )


def _alone(plan: Plan) -> Plan:
    return plan.model_copy(update={"streams": 1, "batch_sizes": (1,)})


def freeze_garbage() -> None:
    """Leave all that was loaded out of garbage collection.

    A full collection over what importing the libraries made stalls a process for 150 to
    190 ms (measured with torch and bentoml 1.4.39): long beyond the budget of a request.
    """
    gc.collect()
    gc.freeze()


def _entry_and_plan(
    artifact: Artifact, engine: str | None, budget_ms: float, inputs: Callable[[], Batch]
) -> tuple[EngineEntry, Plan]:
    record, cores = artifact.record, usable_cores()
    if record is not None and record.machine == this_machine(record.machine.accelerator):
        if engine in (None, record.plan.engine) and budget_ms == record.budget_ms:
            return artifact.manifest.engine(record.plan.engine), record.plan
        if engine is not None and record.curve(engine):
            entry = artifact.manifest.engine(engine)
            return entry, plan_for(engine, record.curve(engine), budget_ms)
    name = engine or (record.plan.engine if record else artifact.manifest.engines[0].name)
    entry = artifact.manifest.engine(name)
    shape = artifact.manifest.preprocessing.input_shape
    curve = measure_curve(
        lambda plan: load_engine(entry, artifact.root, shape, plan),
        inputs(),
        cores,
        budget_ms=budget_ms,
        seconds=REMEASURE_SECONDS,
    )
    return entry, plan_for(name, curve, budget_ms)
