"""Certifies engines against the reference: at an import, and again on another machine."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.evidence import CertifiedEngine, EngineGraph
from image_classifier.artifact.record import EngineAttempt, LatencyPoint, Plan
from image_classifier.inference.certificate import GoldenAnswers, certify, logit_scale
from image_classifier.inference.engine import Batch, EngineUnavailable, LoadEngine, Logits
from image_classifier.inference.engines.load import (
    accelerator_of,
    effective_precision,
    open_graph,
)
from image_classifier.inference.executor import Executor
from image_classifier.inference.machine import usable_cores
from image_classifier.inference.measurement import opener
from image_classifier.inference.plan import (
    BATCH_SIZES,
    GPU_BATCH_SIZES,
    MIN_ROUNDS,
    best_point,
    config_of,
    fastest,
    fastest_plan,
    measure_engine,
    measure_in_rounds,
)
from image_classifier.inference.startup import (
    SelfCheckFailed,
    accelerator_for,
    check_engine,
    check_preprocessing,
)
from importer.candidates import ONNX_GRAPH
from importer.extreme_images import ExtremeImages
from importer.failures import describe_failure
from importer.options import EngineOptions
from importer.progress import Progress
from preprocessing import InputSpec, Preprocessing

PAIRED = 16
"""Golden images that also run in batches of two. Comparing them with single runs shows a graph that
mixes the images of a batch, or that has a batch size of one written into it."""
EXTREME_TOLERANCE = 1e-2
"""Largest |difference of a logit| on an extreme image, as a factor of `logit_scale`. More than on
golden images: a network that divides by the contrast amplifies rounding there."""
LIMIT_IN_POINTS = 32
"""The measurement of one engine ends after this many times the duration of one point, the
comparison of all engines after half as many."""


@dataclass(frozen=True, kw_only=True)
class GoldenSet:
    """The golden images, with which engines are certified and measured.

    Attributes:
        files: The image files.
        preprocessing: Makes inputs of files.
        inputs: Made of the files, (n, H, W, C).
        truth: The reference's answers.
        takes_batches: Whether the graphs run more than one image at a time.
        extreme: Images that fp32 engines are also compared on.
    """

    files: Sequence[bytes]
    preprocessing: Preprocessing
    inputs: Batch
    truth: GoldenAnswers
    takes_batches: bool
    extreme: ExtremeImages | None


def certify_all(
    candidates: Sequence[EngineGraph],
    failed_exports: Mapping[str, str],
    golden: GoldenSet,
    root: Path,
    options: EngineOptions,
    progress: Progress,
) -> tuple[tuple[CertifiedEngine, ...], tuple[EngineAttempt, ...]]:
    """Run each candidate on the golden images, and measure those that pass their gates.

    An engine of reduced precision also fails if the graph that it runs, or was made from, fails on
    the extreme images in fp32.

    Args:
        failed_exports: File name of a graph → why it was not exported.
        root: Directory of the artifact.
        options: Gates, budget and duration of one measurement.

    Returns:
        The certified engines, and the outcome of each candidate.
    """
    engines: list[CertifiedEngine] = []
    attempts: list[EngineAttempt] = []
    graphs = {engine.name: engine for engine in (*map(_in_fp32, candidates), *candidates)}

    @functools.cache  # so that the weights of a torch program are on the device once
    def load(name: str) -> LoadEngine:
        return _open(graphs[name], root, golden.preprocessing.input_spec)

    @functools.cache
    def failure_on_extreme_images(name: str) -> str:
        if golden.extreme is None:
            return ""
        logits = _logits(load(name), name, golden, golden.extreme.inputs, 1)
        return _failure_on(golden.extreme, logits)

    truth, gates, budget_ms = golden.truth, options.gates, options.budget_ms
    limit_s = LIMIT_IN_POINTS * options.measure_seconds
    sample_s = options.measure_seconds / MIN_ROUNDS
    open_config = opener(load, golden.inputs, golden.files, golden.preprocessing, sample_s)
    for candidate in candidates:
        name, precision = candidate.name, candidate.precision
        if candidate.kind == "aotinductor" and not _worth_compiling(candidate, attempts, budget_ms):
            continue
        if candidate.file in failed_exports:
            attempts.append(_unavailable(name, failed_exports[candidate.file]))
            continue
        # An engine may raise anything for a graph that it cannot run; the others go on.
        try:
            if candidate.kind == "aotinductor":
                if options.device == "cuda" and accelerator_of(candidate.kind) is None:
                    raise EngineUnavailable(
                        "this machine has no GPU; `model_import.py renew` on one compiles it"
                    )
                with progress.step(f"{name}: compile"):
                    # Imported here: needs torch, which other engines do without.
                    from importer.compiling import compile_program

                    candidate = graphs[name] = compile_program(candidate, root)
            with progress.step(f"{name}: verify and measure"):
                run = functools.partial(_logits, load(name), name, golden)
                single = run(golden.inputs, 1)
                certificate, failure = certify(single, truth, precision, gates)
                if golden.takes_batches and not failure:
                    pairs = run(golden.inputs[:PAIRED], 2)
                    singles = replace(truth, logits=single[:PAIRED], class_ids=(None,) * len(pairs))
                    _, mixing = certify(pairs, singles, precision, gates)
                    failure = f"in batches of 2: {mixing}" if mixing else ""
                failure = failure or failure_on_extreme_images(_in_fp32(candidate).name)
                curve: tuple[LatencyPoint, ...] = ()
                if not failure:
                    on_gpu = accelerator_of(candidate.kind) is not None
                    sizes = GPU_BATCH_SIZES if on_gpu else BATCH_SIZES
                    curve = measure_engine(
                        name,
                        usable_cores(),
                        open_config,
                        budget_ms=budget_ms,
                        limit_s=limit_s,
                        batch_sizes=sizes if golden.takes_batches else sizes[:1],
                        on_gpu=on_gpu,
                    )
        except Exception as error:
            attempts.append(_unavailable(name, describe_failure(f"running {name}", error)))
            continue
        if not failure:
            engines.append(CertifiedEngine(**candidate.model_dump(), certificate=certificate))
        attempts.append(
            EngineAttempt(
                engine=name,
                verdict="failed" if failure else "passed",
                reason=failure,
                certificate=certificate,
                curve=curve,
            )
        )
    if len(engines) > 1:
        with progress.step("compare the engines"):  # the best configuration of each, in turn
            configs = [
                config_of(row.engine, best_point(row.engine, row.curve, budget_ms), row.curve)
                for row in attempts
                if row.curve
            ]
            points = measure_in_rounds(
                configs, open_config, lambda points: fastest(points)[1], limit_s=limit_s / 2
            )
        again = {config.engine: point for config, point in zip(configs, points, strict=False)}
        attempts = [row.model_copy(update={"compared": again.get(row.engine)}) for row in attempts]
    return tuple(engines), tuple(attempts)


def _in_fp32(engine: EngineGraph) -> EngineGraph:
    """Return the fp32 engine of the graph that an engine runs, or that int8 was made from."""
    if engine.precision == "fp32":
        return engine
    return EngineGraph(
        kind="torch" if engine.kind == "aotinductor" else engine.kind,  # needs no compiler
        precision="fp32",
        file=ONNX_GRAPH.file if engine.precision == "int8" else engine.file,
    )


def _worth_compiling(
    candidate: EngineGraph, attempts: Sequence[EngineAttempt], budget_ms: float
) -> bool:
    """Return whether to spend minutes on compiling a program, as in `candidate`.

    Where "auto" tried the torch engines before: only in the precision of the fastest.
    """
    if not any(attempt.engine.startswith("torch") for attempt in attempts):
        return True
    measured = [attempt for attempt in attempts if attempt.curve]
    fastest_engine = fastest_plan(measured, budget_ms).engine if measured else ""
    return fastest_engine == f"torch-{candidate.precision}"


def _logits(
    load: LoadEngine, engine: str, golden: GoldenSet, inputs: Batch, batch_size: int
) -> Logits:
    """Return an engine's logits (n, classes) of inputs, in batches of one size.

    Only one size is compiled: OpenVINO keeps a copy of the weights for each.
    """
    num_classes, input_spec = golden.truth.logits.shape[1], golden.preprocessing.input_spec
    with _executor(load, engine, (batch_size,), input_spec, num_classes) as executor:
        return executor.run_in_parts(inputs, batch_size)


@contextlib.contextmanager
def _executor(
    load: LoadEngine,
    engine: str,
    batch_sizes: tuple[int, ...],
    input_spec: InputSpec,
    num_classes: int,
) -> Iterator[Executor]:
    """Load an engine with one stream, and close it afterwards."""
    threads = usable_cores()
    plan = Plan(
        engine=engine, streams=1, threads=threads, batch_sizes=batch_sizes, service_time_ms=1
    )
    with contextlib.closing(Executor(load(plan), plan, input_spec, num_classes)) as executor:
        yield executor


def _failure_on(extreme: ExtremeImages, logits: Logits) -> str:
    """Return why an engine fails on the extreme images; empty if it passes."""
    finite = np.isfinite(logits).all(axis=1)
    worst = np.where(finite == extreme.finite, 0.0, np.inf)
    if (both := finite & extreme.finite).any():
        expected = extreme.logits[both]
        worst[both] = (np.abs(logits[both] - expected) / logit_scale(expected)).max(axis=1)
    if worst.max() <= EXTREME_TOLERANCE:
        return ""
    names = [extreme.names[row] for row in np.argsort(-worst) if worst[row] > EXTREME_TOLERANCE]
    found = f"off by {worst.max():.2g} (relative), allowed is {EXTREME_TOLERANCE:g}"
    if np.isinf(worst.max()):
        found = "one of the two is not finite"
    return (
        f"on {' and '.join(names[:2])}, made of a golden one, a logit is not the network's: "
        f"{found}; if no such image will be served: --accept odd-images"
    )


def _open(graph: EngineGraph, root: Path, input_spec: InputSpec) -> LoadEngine:
    """Open a graph, unless this machine would run it in another precision than its name."""
    if (actual := effective_precision(graph)) != graph.precision:
        raise EngineUnavailable(
            f"this processor has no {graph.precision}, and the engine runs in {actual} instead; "
            f"{graph.name} can be certified on a processor that has it"
        )
    return open_graph(graph, root, input_spec.shape)


def _unavailable(engine: str, reason: str) -> EngineAttempt:
    return EngineAttempt(engine=engine, verdict="unavailable", reason=reason)


def verify_engines(artifact: Artifact, progress: Progress) -> list[EngineAttempt]:
    """Run the self-check of a start with each certified engine, on all golden images.

    Returns:
        One row per engine, in the order of the evidence.

    Raises:
        OperatorError: The preprocessing cannot be loaded, or gives other pixels than at import.
    """
    manifest, record = artifact.manifest, artifact.record
    with progress.step(f"preprocess {len(manifest.golden)} golden samples"):
        inputs = check_preprocessing(artifact, artifact.preprocessing)
    rows = []
    for entry in artifact.evidence.engines:
        name = entry.name
        sizes = record.plan.batch_sizes if record.plan.engine == name else (1,)
        # An engine that cannot run on this machine may raise anything.
        try:
            with progress.step(f"{name}: verify"):
                load = _open(entry, artifact.root, manifest.input)
                accelerator_for(entry, record)
                with _executor(load, name, sizes, manifest.input, manifest.num_classes) as executor:
                    check_engine(artifact, entry, executor, inputs)
        except SelfCheckFailed as error:
            rows.append(EngineAttempt(engine=name, verdict="failed", reason=str(error)))
        except Exception as error:
            rows.append(_unavailable(name, describe_failure(f"running {name}", error)))
        else:
            rows.append(EngineAttempt(engine=name, verdict="passed"))
    return rows
