"""Runs the certificates of an artifact again, on this machine."""

from collections.abc import Iterator

import numpy as np

from artifact.manifest import EngineEntry
from artifact.opened import Artifact
from artifact.record import EngineAttempt, Plan
from importer.console import Progress
from inference.certify import certify
from inference.engines import Batch, Logits, open_graph
from inference.executor import Executor
from inference.machine import usable_cores
from inference.self_check import gates_of, golden_inputs
from preprocessing.errors import OperatorError


def verify_engines(artifact: Artifact, progress: Progress) -> tuple[EngineAttempt, ...]:
    """Hold every certified engine to its gates again, with the golden samples.

    Runs what serving would run, a preprocessing class of the artifact's own included.

    Returns:
        One row an engine, in the manifest's order.

    Raises:
        SelfCheckFailed: The preprocessing gives other pixels than at import.
    """
    samples = artifact.golden_samples()
    with progress.step(f"preprocess {len(samples)} golden samples"):
        inputs = golden_inputs(samples, artifact.preprocessing())
    rows = []
    for entry in artifact.manifest.engines:
        with progress.step(f"{entry.name}: verify"):
            rows.append(_verified(artifact, entry, inputs))
    return tuple(rows)


def _verified(artifact: Artifact, entry: EngineEntry, inputs: Batch) -> EngineAttempt:
    samples = artifact.golden_samples()
    reference = np.stack([sample.logits for sample in samples])
    class_ids = tuple(sample.class_id for sample in samples)
    difference, agreement, failures = 0.0, 1.0, []
    # An engine may be unable to run on this machine, and raises what it likes then.
    try:
        for size, logits in _logits(artifact, entry, inputs):
            certificate, failure = certify(
                logits, reference, class_ids, entry.precision, gates_of(entry)
            )
            difference = max(difference, certificate.max_logit_difference)
            agreement = min(agreement, certificate.top1_agreement)
            failures += [f"batch size {size}: {failure}"] if failure else []
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        if not isinstance(error, OperatorError):
            reason = f"{type(error).__name__}: {reason}"
        return EngineAttempt(engine=entry.name, verdict="unavailable", reason=reason)
    return EngineAttempt(
        engine=entry.name,
        verdict="failed" if failures else "passed",
        reason="; ".join(failures),
        max_logit_difference=difference,
        top1_agreement=agreement,
    )


def _logits(artifact: Artifact, entry: EngineEntry, inputs: Batch) -> Iterator[tuple[int, Logits]]:
    """Logits of all inputs at each batch size that serving would use, and at one."""
    sizes = {1}
    if artifact.record is not None and artifact.record.plan.engine == entry.name:
        sizes |= set(artifact.record.plan.batch_sizes)
    signature = artifact.manifest.preprocessing
    plan = Plan(
        engine=entry.name,
        streams=1,
        threads=usable_cores(),
        batch_sizes=tuple(sorted(sizes)),
        image_ms=1,
    )
    engine = open_graph(entry, artifact.root, signature.input_shape)(plan)
    executor = Executor(engine, plan, signature, artifact.manifest.num_classes)
    try:
        for size in plan.batch_sizes:
            yield size, executor.run_in_parts(inputs, size)
    finally:
        executor.close()
