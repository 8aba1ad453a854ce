"""From a verified artifact to an executor that is warm and proven."""

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from artifact.manifest import EngineEntry
from artifact.opened import Artifact
from artifact.record import ImportRecord, Plan
from inference.engines import Batch, EngineUnavailable, LoadEngine, accelerator_of, open_graph
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
        here = this_machine(_accelerator(entry, record))
        measured = record if record and record.machine == here else None
        plan = _plan(measured, entry.name, budget_ms, load, inputs.result)
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


def _accelerator(entry: EngineEntry, record: ImportRecord | None) -> str | None:
    """Name of the GPU the engine runs on, or None.

    Raises:
        EngineUnavailable: It was imported for a GPU and there is none. The CPU would do its work,
            correctly and far too slowly.
    """
    accelerator = accelerator_of(entry.kind)
    for_gpu = record is not None and record.machine.accelerator is not None
    if for_gpu and entry.kind == "torchscript" and accelerator is None:
        raise EngineUnavailable(
            f"engine {entry.name}: the model was imported for a GPU and torch finds none; check "
            "the driver and that this process may use the GPU, or import the model with "
            "--device cpu"
        )
    return accelerator


def _plan(
    measured: ImportRecord | None,
    engine: str,
    budget_ms: float,
    load: LoadEngine,
    inputs: Callable[[], Batch],
) -> Plan:
    """How to run the engine: from what was measured on this machine, or measured here."""
    if measured:
        if (engine, budget_ms) == (measured.plan.engine, measured.budget_ms):
            return measured.plan
        if curve := measured.curve(engine):
            return plan_for(engine, curve, budget_ms)
    curve = measure_curve(
        load, inputs(), usable_cores(), budget_ms=budget_ms, seconds=REMEASURE_SECONDS
    )
    return plan_for(engine, curve, budget_ms)
