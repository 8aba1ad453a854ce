"""From a verified artifact to an executor that is loaded, warm and checked."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.evidence import CertifiedEngine
from image_classifier.artifact.format import SIGNATURE_NAME, ArtifactError, sha256_bytes
from image_classifier.artifact.record import ImportRecord, Machine, Plan
from image_classifier.inference.certificate import Gates, GoldenAnswers, certify
from image_classifier.inference.engine import Batch, EngineUnavailable, LoadEngine, Logits
from image_classifier.inference.engines.load import (
    accelerator_of,
    effective_precision,
    open_graph,
)
from image_classifier.inference.executor import Executor
from image_classifier.inference.machine import this_machine, usable_cores
from image_classifier.inference.measurement import opener
from image_classifier.inference.plan import GPU_BATCH_SIZES, measure_engine, plan_for
from image_classifier.inference.plan_cache import (
    cache_file,
    keep_plan,
    one_process_at_a_time,
    read_plan,
)
from image_classifier.logs import logger
from image_classifier.settings import Settings
from preprocessing import (
    DecodeLimits,
    Preprocessing,
    conformance_digests,
    differing_cases,
    to_input,
)

StartStep = tuple[str, float, float]
"""Name, begin in Unix seconds and duration in seconds of a step of the start of a process."""
START_STEPS: list[StartStep] = []
"""Those of this process, in order of their ends; the page shows them."""
STEP_LISTENERS: list[Callable[[str], None]] = []
"""Called with the name of each step when it begins."""


@contextmanager
def start_step(name: str) -> Iterator[None]:
    """Tell of and measure one step of the start."""
    for listener in STEP_LISTENERS:
        listener(name)
    began_at, begun = time.time(), time.perf_counter()
    yield
    START_STEPS.append((name, began_at, time.perf_counter() - begun))


def open_for_serving(
    root: Path, manifest_sha256: str, evidence_sha256: str, *, public_key: str | None, graphs: bool
) -> Artifact:
    """See `open_artifact`; with a key, the artifact must carry a signature of it.

    Args:
        public_key: Path of a PEM file, or None.

    Raises:
        ArtifactError: The artifact is damaged, or not signed by the key.
    """
    with start_step("verify"):
        artifact = open_artifact(root, manifest_sha256, evidence_sha256, graphs=graphs)
    if public_key is not None:
        # Its library takes longer to import than all else here, and few starts need it.
        from image_classifier.artifact.signature import verify_signature

        signature = artifact.path_of(SIGNATURE_NAME)
        verify_signature(signature, artifact.pinned_files(), Path(public_key))
    return artifact


class SelfCheckFailed(ArtifactError):
    """This machine does not reproduce what was certified; the service must not start."""


CASES_NAMED = 5
"""Conformance cases named in a refusal; the cause shows in the first few."""


def check_conformance(expected: Mapping[str, str], preprocessing: Preprocessing) -> None:
    """Check that preprocessing makes the same of the conformance cases as at import.

    Args:
        expected: Outcome of each case at import, by name, from the manifest.

    Raises:
        SelfCheckFailed: Some differ; the message names them.
    """
    if different := differing_cases(expected, conformance_digests(preprocessing)):
        more = ", …" if len(different) > CASES_NAMED else ""
        raise SelfCheckFailed(
            f"preprocessing gives other pixels than at import for {len(different)} of "
            f"{len(expected)} conformance cases ({', '.join(different[:CASES_NAMED])}{more}); "
            "install the versions of the requirements lock, or import the model again"
        )


def golden_inputs(artifact: Artifact, preprocessing: Preprocessing) -> Batch:
    """Return the inputs of the golden samples, (n, H, W, C), proven to be those of the import.

    Raises:
        SelfCheckFailed: A sample gives other pixels than at import.
    """
    inputs = []
    for entry, data in zip(artifact.manifest.golden, artifact.golden_files(), strict=True):
        array = to_input(data, preprocessing, DecodeLimits())
        actual = sha256_bytes(array.tobytes())
        if actual != entry.input_sha256:
            raise SelfCheckFailed(
                f"golden sample {entry.name}: preprocessing gives other pixels than at import "
                f"(sha256 is {actual}, expected {entry.input_sha256}); install the versions of "
                "the requirements lock, or import the model again on this machine"
            )
        inputs.append(array)
    return np.stack(inputs)


def check_preprocessing(artifact: Artifact, preprocessing: Preprocessing) -> Batch:
    """Check conformance cases and golden samples; return the golden inputs, (n, H, W, C).

    Args:
        preprocessing: The artifact's, as it will serve.

    Raises:
        SelfCheckFailed: Preprocessing makes other pixels than at import.
    """
    with start_step("preprocessing"):
        check_conformance(artifact.manifest.conformance, preprocessing)
        return golden_inputs(artifact, preprocessing)


SAMPLES_KNOWN = 8
"""Golden samples that a start runs on the machine of the import, with the same version of the
engine's library, which ran them all. What is damaged since then is damaged for every sample."""


def check_engine(
    artifact: Artifact,
    entry: CertifiedEngine,
    executor: Executor,
    inputs: Batch,
    *,
    known: bool = False,
) -> None:
    """Run the golden inputs at every compiled batch size and hold them to the certificate.

    Args:
        known: The certificate was made with the same library on the same machine. `SAMPLES_KNOWN`
            inputs are enough then, or one whole batch; they must agree as well as all of them did.

    Raises:
        SelfCheckFailed: An answer is not within the certificate's gates.
    """
    truth, gates = golden_answers(artifact), gates_of(entry)
    if known:
        count = min(len(inputs), max(SAMPLES_KNOWN, *executor.plan.batch_sizes))
        rows = np.linspace(0, len(inputs) - 1, count).astype(int)
        differing = (1 - entry.certificate.agreement) * len(inputs)
        as_well = {"min_agreement": max(0.5, 1 - differing / count), "max_accuracy_loss": 1.0}
        gates, inputs = gates.model_copy(update=as_well), inputs[rows]
        class_ids = tuple(truth.class_ids[row] for row in rows)
        truth = replace(truth, logits=truth.logits[rows], class_ids=class_ids)
    for how, logits in _runs(executor, inputs):
        _, failure = certify(logits, truth, entry.precision, gates)
        if failure:
            raise SelfCheckFailed(
                f"engine {entry.name}, {how}: {failure}; this machine does not "
                "reproduce the certificate: import the model again here, or set "
                "CLASSIFIER_ENGINE to another engine"
            )


def _runs(executor: Executor, inputs: Batch) -> Iterator[tuple[str, Logits]]:
    """Yield how inputs can run, in words, and the logits of all inputs run so."""
    for batch_size in executor.plan.batch_sizes:
        logits = executor.run_in_parts(inputs, batch_size)
        yield f"batch size {batch_size}", logits
    if executor.plan.single_stream:
        # Every fourth: the same graph was certified this way at import, and a start must be quick.
        logits[::4] = np.concatenate([executor.run(one[np.newaxis]) for one in inputs[::4]])
        yield "single stream", logits


def golden_answers(artifact: Artifact) -> GoldenAnswers:
    """Return what the engines of an artifact are held to."""
    logits, class_ids = artifact.reference()
    return GoldenAnswers(logits=logits, class_ids=class_ids, outputs=artifact.manifest.outputs)


def gates_of(entry: CertifiedEngine) -> Gates:
    """The gates the engine passed at import."""
    required = {
        "fp32_tolerance": entry.certificate.tolerance,
        "min_agreement": entry.certificate.required_agreement,
        "max_accuracy_loss": entry.certificate.max_accuracy_loss,
    }
    # What an engine of its precision is not held to is None; the default has no effect then.
    return Gates.model_validate({k: value for k, value in required.items() if value is not None})


REMEASURE_SECONDS = 0.02
"""Seconds per sample when re-measuring on another machine than that of the import."""
REMEASURE_LIMIT_S = 3.0
"""Seconds by which re-measuring may delay a start."""


def load_executor(
    artifact: Artifact,
    *,
    engine: str | None,
    budget_ms: float,
    deterministic: bool,
    every_sample: bool = False,
) -> Executor:
    """Load, warm up and check the engine that serves.

    Args:
        engine: Name of a certified engine; None takes the plan's.
        budget_ms: Milliseconds an answer may take.
        deterministic: Run every batch at one fixed shape.
        every_sample: Check with all golden samples where a few are enough too.

    Raises:
        ArtifactError: The engine cannot be loaded, or does not reproduce its certificate.
    """
    preprocessing = artifact.preprocessing
    with ThreadPoolExecutor(1, "golden") as pool, start_step("load"):
        # While the engine is compiled; saves some tenths of a second.
        inputs = pool.submit(check_preprocessing, artifact, preprocessing)
        record, input_spec = artifact.record, artifact.manifest.input
        unnamed = record.plan.engine if record else artifact.evidence.engines[0].name
        entry = artifact.evidence.engine(engine or unnamed)
        load = open_graph(entry, artifact.root, input_spec.shape)
        if (precision := effective_precision(entry)) != entry.precision:
            logger.warning(
                "engine %s runs in %s: this processor has no %s",
                entry.name,
                precision,
                entry.precision,
            )
        here = this_machine(_accelerator(entry, record))
        plan = _plan_for(artifact, entry.name, here, budget_ms, load, preprocessing, inputs)
        if deterministic:
            one_shape = {"batch_sizes": plan.batch_sizes[:1], "single_stream": False}
            plan = plan.model_copy(update=one_shape)
        single_stream_plan = plan.model_copy(update={"streams": 1, "batch_sizes": (1,)})
        executor = Executor(
            load(plan),
            plan,
            input_spec,
            artifact.manifest.num_classes,
            load(single_stream_plan) if plan.single_stream else None,
            accelerator=here.accelerator,
        )
    with start_step("warm_up"):
        executor.warmup()
    with start_step("self_check"):
        known = not every_sample and _certified_here(artifact, entry, here)
        check_engine(artifact, entry, executor, inputs.result(), known=known)
    return executor


def log_start(
    artifact: Artifact, tag: str, plan: Plan, settings: Settings, place: Mapping[str, str]
) -> None:
    """Write the one line that says what serves, how, and where: in which `place`."""
    facts = {
        "model": tag,
        "digest": artifact.evidence.identity_sha256,
        "engine": plan.engine,
        "precision": artifact.evidence.engine(plan.engine).precision,
        "batch_sizes": list(plan.batch_sizes),
        "streams": plan.streams,
        "threads": plan.threads,
        **place,
        "signature": "verified" if settings.public_key else "not asked for",
        "settings": settings.changed or "defaults",
    }
    described = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    logger.info("serving: %s", described, extra={"fields": facts})


def freeze_garbage() -> None:
    """Exclude all objects that exist at present from garbage collection.

    A full collection over the objects of the imported libraries stalls a process for 150 to
    190 ms (torch and bentoml 1.4.39), far longer than the budget of a request.
    """
    gc.collect()
    gc.freeze()


def _accelerator(entry: CertifiedEngine, record: ImportRecord | None) -> str | None:
    """Return the name of the GPU the engine runs on, or None.

    Raises:
        EngineUnavailable: The model was imported for a GPU and there is none; on the CPU it would
            be far too slow.
    """
    accelerator = accelerator_of(entry.kind)
    for_gpu = record is not None and record.for_gpu
    if for_gpu and entry.kind == "torch" and accelerator is None:
        raise EngineUnavailable(
            f"engine {entry.name}: the model was imported for a GPU and torch finds none; check "
            "the driver and that this process may use the GPU, or import the model with "
            "--device cpu"
        )
    return accelerator


def _certified_here(artifact: Artifact, entry: CertifiedEngine, here: Machine) -> bool:
    """Return whether the certificate was made on this machine with this version of the library."""
    if artifact.record is None or artifact.record.machine != here:
        return False
    with suppress(metadata.PackageNotFoundError):  # it may be installed under another name
        return artifact.evidence.versions.get(entry.kind) == metadata.version(entry.kind)
    return False


def _plan_for(
    artifact: Artifact,
    engine: str,
    here: Machine,
    budget_ms: float,
    load: LoadEngine,
    preprocessing: Preprocessing,
    inputs: Future[Batch],
) -> Plan:
    """Return the plan that the import's measurements give, or else those of this machine.

    Here the numbers of streams are measured, and of the batch sizes only the one the import chose;
    on a GPU all batch sizes, since the import may have been on a machine without one.

    Args:
        here: This machine; the import's measurements hold on an equal one alone.
        load: Loads the engine.
        inputs: The golden inputs, once they are made.
    """
    record = artifact.record
    if record is not None and record.machine == here:
        if (engine, budget_ms) == (record.plan.engine, record.budget_ms):
            return record.plan
        if curve := record.curve(engine):
            return plan_for(engine, curve, budget_ms)
    cached = cache_file(artifact.digest, here, engine, budget_ms)
    if plan := read_plan(cached):
        return plan
    on_gpu = here.accelerator is not None
    sizes: Sequence[int] = (1,)
    if record and artifact.manifest.takes_batches:
        sizes = GPU_BATCH_SIZES if on_gpu else sorted({1, record.plan.batch_sizes[-1]})
    files = artifact.golden_files()
    # API processes that start together would measure each other, and keep that.
    with one_process_at_a_time(cached):
        if plan := read_plan(cached):
            return plan
        points = measure_engine(
            engine,
            usable_cores(),
            opener(lambda _: load, inputs.result(), files, preprocessing, REMEASURE_SECONDS),
            budget_ms=budget_ms,
            limit_s=REMEASURE_LIMIT_S,
            batch_sizes=sizes,
            on_gpu=on_gpu,
        )
        plan = plan_for(engine, points, budget_ms)
        keep_plan(cached, plan)
        return plan
