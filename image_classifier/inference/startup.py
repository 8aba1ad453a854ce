"""The start of a process: opens the artifact, loads the engine, warms it up and checks it."""

import ctypes
import gc
import mmap
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
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
from image_classifier.inference.plan_cache import cache_file, cached_plan
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
"""Name, begin in Unix seconds and duration in seconds of a step of the start."""
START_STEPS: list[StartStep] = []
"""The finished steps of this process; the page shows them."""
STEP_LISTENERS: list[Callable[[str], None]] = []
"""Functions that are called with the name of each step when it begins."""


@contextmanager
def start_step(name: str) -> Iterator[None]:
    """Announce and measure one step of the start."""
    for listener in STEP_LISTENERS:
        listener(name)
    unix_s, start = time.time(), time.perf_counter()
    yield
    START_STEPS.append((name, unix_s, time.perf_counter() - start))


def open_for_serving(
    root: Path, manifest_sha256: str, evidence_sha256: str, *, public_key: str | None, graphs: bool
) -> Artifact:
    """Open an artifact as `open_artifact` does, and verify its signature if there is a key.

    Args:
        public_key: Path of a PEM file, or None.

    Raises:
        ArtifactError: The artifact is damaged, or not signed with the key.
    """
    with start_step("verify"):
        artifact = open_artifact(root, manifest_sha256, evidence_sha256, graphs=graphs)
    if public_key is not None:
        # Imported here: few starts need the library, which is slow to import.
        from image_classifier.artifact.signature import verify_signature

        signature = artifact.path_of(SIGNATURE_NAME)
        verify_signature(signature, artifact.pinned_files(), Path(public_key))
    return artifact


class SelfCheckFailed(ArtifactError):
    """This machine does not reproduce the certified results; the service must not start."""


def golden_inputs(artifact: Artifact, preprocessing: Preprocessing) -> Batch:
    """Return the inputs of the golden samples, (n, H, W, C), verified by their digests.

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
        preprocessing: The preprocessing that will serve.

    Raises:
        SelfCheckFailed: The preprocessing gives other pixels than at import.
    """
    with start_step("preprocessing"):
        expected = artifact.manifest.conformance
        if different := differing_cases(expected, conformance_digests(preprocessing)):
            names = ", ".join(different[:5]) + (", …" if len(different) > 5 else "")
            raise SelfCheckFailed(
                f"preprocessing gives other pixels than at import for {len(different)} of "
                f"{len(expected)} conformance cases ({names}); install the versions of the "
                "requirements lock, or import the model again"
            )
        return golden_inputs(artifact, preprocessing)


SAMPLES_KNOWN = 8
"""Golden samples that a start runs on the machine of the import with the same version of the
engine's library. The import ran all samples, and damage since then would show in every sample."""


def check_engine(
    artifact: Artifact,
    entry: CertifiedEngine,
    executor: Executor,
    inputs: Batch,
    *,
    known: bool = False,
) -> None:
    """Run the golden inputs at every compiled batch size and apply the gates of the certificate.

    Args:
        known: The certificate was made on this machine with this version of the library. Then
            `SAMPLES_KNOWN` inputs, or the largest batch, are enough, and may differ on as many
            samples as the engine did at import.

    Raises:
        SelfCheckFailed: The logits do not pass the gates.
    """
    (expected, class_ids), gates = artifact.reference(), gates_of(entry)
    if known:
        count = min(len(inputs), max(SAMPLES_KNOWN, *executor.plan.batch_sizes))
        rows = np.linspace(0, len(inputs) - 1, count).astype(int)
        differing = (1 - entry.certificate.agreement) * len(inputs)
        known_gates = {"min_agreement": max(0.5, 1 - differing / count), "max_accuracy_loss": 1.0}
        gates = gates.model_copy(update=known_gates)
        inputs, expected = inputs[rows], expected[rows]
        class_ids = tuple(class_ids[row] for row in rows)
    outputs = artifact.manifest.outputs
    reference = GoldenAnswers(logits=expected, class_ids=class_ids, outputs=outputs)
    for name, logits in _runs(executor, inputs):
        _, failure = certify(logits, reference, entry.precision, gates)
        if failure:
            raise SelfCheckFailed(
                f"engine {entry.name}, {name}: {failure}; this machine does not "
                "reproduce the certificate: import the model again here, or set "
                "CLASSIFIER_ENGINE to another engine"
            )


def _runs(executor: Executor, inputs: Batch) -> Iterator[tuple[str, Logits]]:
    """Run the inputs in every way of the plan; yield the name of each way and its logits."""
    for batch_size in executor.plan.batch_sizes:
        logits = executor.run_in_parts(inputs, batch_size)
        yield f"batch size {batch_size}", logits
    if executor.plan.single_stream:
        # Every fourth input, for a quick start: the import certified the same graph with all.
        logits[::4] = np.concatenate([executor.run(item[np.newaxis]) for item in inputs[::4]])
        yield "single stream", logits


def gates_of(entry: CertifiedEngine) -> Gates:
    """Return the gates that the engine passed at import."""
    required = {
        "fp32_tolerance": entry.certificate.tolerance,
        "min_agreement": entry.certificate.required_agreement,
        "max_accuracy_loss": entry.certificate.max_accuracy_loss,
    }
    # None is a gate that does not apply to the engine's precision; nor does its default then.
    return Gates.model_validate({k: value for k, value in required.items() if value is not None})


REMEASURE_SECONDS = 0.02
"""Seconds per sample when measuring a plan at a start."""
REMEASURE_LIMIT_S = 3.0
"""Longest delay of a start by measuring a plan."""


def load_executor(
    artifact: Artifact,
    *,
    engine: str | None,
    budget_ms: float,
    deterministic: bool,
    processes: int = 1,
    every_sample: bool = False,
) -> Executor:
    """Load, warm up and check the engine that serves.

    Args:
        engine: Name of a certified engine; None takes that of the plan.
        budget_ms: Target latency of an answer.
        deterministic: Run every batch at one fixed shape.
        processes: Processes that load the engine and share the cores.
        every_sample: Check with all golden samples, even if a few are enough.

    Raises:
        ArtifactError: The engine cannot be loaded, or does not reproduce its certificate.
    """
    preprocessing = artifact.preprocessing
    with ThreadPoolExecutor(1, "golden") as pool, start_step("load"):
        # While the engine compiles: saves some tenths of a second.
        inputs = pool.submit(check_preprocessing, artifact, preprocessing)
        record, input_spec = artifact.record, artifact.manifest.input
        entry = artifact.evidence.engine(engine or record.plan.engine)
        try:
            load = open_graph(entry, artifact.root, input_spec.shape)
        except EngineUnavailable as error:
            uncompiled = f"torch-{entry.precision}"
            certified = {other.name: other for other in artifact.evidence.engines}
            if engine is not None or entry.package is None or uncompiled not in certified:
                raise
            entry = certified[uncompiled]
            logger.warning("%s; serving with %s", error, entry.name)
            load = open_graph(entry, artifact.root, input_spec.shape)
        if (precision := effective_precision(entry)) != entry.precision:
            logger.warning(
                "engine %s runs in %s: this processor has no %s",
                entry.name,
                precision,
                entry.precision,
            )
        here = this_machine(accelerator_for(entry, record))
        plan = _plan_for(artifact, entry.name, here, budget_ms, load, preprocessing, inputs)
        if deterministic:
            fixed_shape = {"batch_sizes": plan.batch_sizes[:1], "single_stream": False}
            plan = plan.model_copy(update=fixed_shape)
        single_stream_plan = plan.model_copy(update={"streams": 1, "batch_sizes": (1,)})
        if here.accelerator is None:  # on a GPU, streams are batches in flight, not cores
            plan = plan.divided(processes)
        executor = Executor(
            load(plan),
            plan,
            input_spec,
            artifact.manifest.num_classes,
            load(single_stream_plan) if plan.single_stream else None,
            accelerator=here.accelerator,
        )
    try:
        with start_step("warm_up"):
            executor.warmup()
        with start_step("self_check"):
            known = not every_sample and _certified_here(artifact, entry, here)
            check_engine(artifact, entry, executor, inputs.result(), known=known)
    except Exception:
        executor.close()
        raise
    return executor


def log_start(
    artifact: Artifact, tag: str, plan: Plan, settings: Settings, place: Mapping[str, object]
) -> None:
    """Log the model, its plan and the settings in one line; `place` has further fields."""
    facts = {
        "model": tag,
        "digest": artifact.evidence.identity_sha256,
        "engine": plan.engine,
        "precision": artifact.evidence.engine(plan.engine).precision,
        "batch_sizes": list(plan.batch_sizes),
        "streams": plan.streams,
        "threads": plan.threads,
        **place,
        "signature": "verified" if settings.public_key else "not required",
        "settings": settings.changed or "defaults",
    }
    described = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    logger.info("serving: %s", described, extra={"fields": facts})


def settle_memory(root: Path) -> None:
    """Return unused memory to the system, and exclude all objects from garbage collection.

    The C library keeps what compiling freed: 16 MB of ResNet-50 int8. Engines copy the weights into
    layouts of their own, and read the mapped files in engines/ no more; a page that one reads after
    all comes back from the file. A full collection over the objects of the imported libraries
    stalls a process for 150 to 190 ms (torch and bentoml 1.4.39), far longer than the budget of a
    request.

    Args:
        root: Directory of the artifact.
    """
    gc.collect()
    gc.freeze()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for start, size in _mapped_for_reading((root / "engines").resolve()):
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)
        if trim := getattr(libc, "malloc_trim", None):  # of glibc
            trim(0)


def _mapped_for_reading(folder: Path) -> Iterator[tuple[int, int]]:
    """Yield address and size, in bytes, of the mapped parts of files in a folder."""
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        addresses, permissions, _, _, _, *name = line.split(maxsplit=5)
        if name and Path(name[0]).is_relative_to(folder) and "w" not in permissions:
            start, end = (int(address, 16) for address in addresses.split("-"))
            yield start, end - start


def accelerator_for(entry: CertifiedEngine, record: ImportRecord) -> str | None:
    """Return the name of the GPU the engine runs on, or None.

    Raises:
        EngineUnavailable: The model was imported for a GPU and there is none; a CPU would be far
            too slow.
    """
    accelerator = accelerator_of(entry.kind)
    if record.for_gpu and entry.kind != "openvino" and accelerator is None:
        raise EngineUnavailable(
            f"engine {entry.name}: the model was imported for a GPU, and none is found; check "
            "the driver and that this process may use the GPU, or import the model with "
            "--device cpu"
        )
    return accelerator


def _certified_here(artifact: Artifact, entry: CertifiedEngine, here: Machine) -> bool:
    """Return whether the certificate was made on this machine with this version of the library."""
    if artifact.record.machine != here:
        return False
    with suppress(metadata.PackageNotFoundError):  # installed under another name
        library = "torch" if entry.kind == "aotinductor" else entry.kind
        return artifact.evidence.versions.get(library) == metadata.version(library)
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
    """Return the plan: from the import's measurements on an equal machine, or else measure it.

    Measured are numbers of streams and the import's batch size; on a GPU all batch sizes, since
    the import may have been on a machine without a GPU.

    Args:
        here: This machine.
        load: Loads the engine.
        inputs: The golden inputs, once they are made.
    """
    record = artifact.record
    if record.machine == here:
        if (engine, budget_ms) == (record.plan.engine, record.budget_ms):
            return record.plan
        if curve := record.curve(engine):
            return plan_for(engine, curve, budget_ms)
    on_gpu = here.accelerator is not None
    sizes: Sequence[int] = (1,)
    if artifact.manifest.takes_batches:
        sizes = GPU_BATCH_SIZES if on_gpu else sorted({1, record.plan.batch_sizes[-1]})

    def measure() -> Plan:
        files = artifact.golden_files()
        points = measure_engine(
            engine,
            usable_cores(),
            opener(lambda _: load, inputs.result(), files, preprocessing, REMEASURE_SECONDS),
            budget_ms=budget_ms,
            limit_s=REMEASURE_LIMIT_S,
            batch_sizes=sizes,
            on_gpu=on_gpu,
        )
        return plan_for(engine, points, budget_ms)

    return cached_plan(cache_file(artifact.digest, here, engine, budget_ms), measure)
