"""Holds engines to the reference: at an import, and again on another machine."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.evidence import Certificate, CertifiedEngine, EngineGraph
from image_classifier.artifact.manifest import InputSpec
from image_classifier.artifact.record import EngineAttempt, Plan
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
    measure_engine,
    measure_in_rounds,
)
from image_classifier.inference.startup import check_preprocessing, gates_of, golden_answers
from importer.failures import describe_failure
from importer.odd_images import OddImages
from importer.options import EngineOptions
from importer.progress import Progress
from preprocessing import Preprocessing

PAIRED = 16
"""Golden samples that also run in batches of two. A graph that mixes the images of a batch, or
has a batch size of one written into it, is told by comparing them with single runs."""
ODD_TOLERANCE = 1e-2
"""Largest |difference of a logit| on an odd image, as a factor of `logit_scale`: more
than on golden ones, as a network that divides by the contrast makes more of rounding there."""
LIMIT_IN_POINTS = 32
"""The measurement of one engine ends after this many times the duration of one point, the
comparison of all engines after half as many."""


@dataclass(frozen=True, kw_only=True)
class GoldenRun:
    """What engines run to be certified.

    Attributes:
        root: Directory of the artifact, or of one under way.
        inputs: Golden inputs, (n, H, W, C).
        truth: What the reference answers to them.
    """

    root: Path
    input_spec: InputSpec
    inputs: Batch
    truth: GoldenAnswers

    def logits(
        self, engine: str, load: LoadEngine, batch_size: int, inputs: Batch | None = None
    ) -> Logits:
        """Return logits (n, classes) of the golden inputs, or of others, in batches of one size.

        One size at a time: OpenVINO keeps a copy of the weights for each.
        """
        plan = Plan(
            engine=engine,
            streams=1,
            threads=usable_cores(),
            batch_sizes=(batch_size,),
            service_time_ms=1,
        )
        executor = Executor(load(plan), plan, self.input_spec, self.truth.logits.shape[1])
        try:
            return executor.run_in_parts(self.inputs if inputs is None else inputs, batch_size)
        finally:
            executor.close()


def certify_all(
    candidates: Sequence[EngineGraph],
    failed_exports: Mapping[str, str],
    golden: GoldenRun,
    options: EngineOptions,
    *,
    odd: OddImages | None,
    takes_batches: bool,
    files: Sequence[bytes],
    preprocessing: Preprocessing,
    progress: Progress,
) -> tuple[tuple[CertifiedEngine, ...], tuple[EngineAttempt, ...]]:
    """Run each candidate on the golden inputs, and measure those that pass their gates.

    Args:
        failed_exports: Why a graph is not there, by file name.
        options: Give the gates, the budget and the duration of one measurement.
        odd: What fp32 engines are held to besides; an engine of less precision fails with the
            fp32 engine of its kind.
        takes_batches: Whether the graphs run more than one image at a time.
        files, preprocessing: Golden files, and what makes inputs of them; decoding shares the
            cores with the network while it is measured.

    Returns:
        The engines that are certified, and what became of each candidate.
    """
    engines, attempts = [], []
    unlike: dict[str, str] = {}  # kind of an engine that fails on odd images → how
    graphs = {candidate.name: candidate for candidate in candidates}

    @functools.cache  # the weights of a torch program are on the device once
    def load(name: str) -> LoadEngine:
        return _open(graphs[name], golden.root, golden.input_spec)

    truth, gates, budget_ms = golden.truth, options.gates, options.budget_ms
    limit_s = LIMIT_IN_POINTS * options.measure_seconds
    sample_s = options.measure_seconds / MIN_ROUNDS
    open_config = opener(load, golden.inputs, files, preprocessing, sample_s)
    for candidate in candidates:
        if candidate.file in failed_exports:
            attempts.append(_unavailable(candidate, failed_exports[candidate.file]))
            continue
        # An engine raises what it likes for a graph it cannot run: the candidate becomes a row
        # with its reason, and the import goes on with the others.
        try:
            with progress.step(f"{candidate.name}: verify and measure"):
                run = functools.partial(golden.logits, candidate.name, load(candidate.name))
                single = run(1)
                certificate, failure = certify(single, truth, candidate.precision, gates)
                if takes_batches and not failure:
                    pairs = run(2, golden.inputs[:PAIRED])
                    alone = GoldenAnswers(
                        logits=single[:PAIRED],
                        class_ids=(None,) * len(pairs),
                        outputs=truth.outputs,
                    )
                    mixing = certify(pairs, alone, candidate.precision, gates)[1]
                    failure = f"in batches of 2: {mixing}" if mixing else ""
                if not failure and odd is not None and candidate.precision == "fp32":
                    unlike[candidate.kind] = _difference_on_odd_images(run(1, odd.inputs), odd)
                failure = failure or unlike.get(candidate.kind, "")
                measured: dict[str, Any] = {}
                if not failure:
                    on_gpu = accelerator_of(candidate.kind) is not None
                    sizes = GPU_BATCH_SIZES if on_gpu else BATCH_SIZES
                    measured["curve"] = measure_engine(
                        candidate.name,
                        usable_cores(),
                        open_config,
                        budget_ms=budget_ms,
                        limit_s=limit_s,
                        batch_sizes=sizes if takes_batches else sizes[:1],
                        on_gpu=on_gpu,
                    )
        except Exception as error:
            attempts.append(
                _unavailable(candidate, describe_failure(f"running {candidate.name}", error))
            )
            continue
        if not failure:
            engines.append(CertifiedEngine(**candidate.model_dump(), certificate=certificate))
        attempts.append(_attempt(candidate, certificate, failure, **measured))
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


def _difference_on_odd_images(logits: Logits, odd: OddImages) -> str:
    """Return why an engine fails on odd images: empty where it passes."""
    answered = np.isfinite(logits).all(axis=1)
    both = answered & odd.answered
    worst = np.where(answered == odd.answered, 0.0, np.inf)
    if both.any():
        right = odd.logits[both]
        worst[both] = (np.abs(logits[both] - right) / logit_scale(right)).max(axis=1)
    if worst.max() <= ODD_TOLERANCE:
        return ""
    names = [odd.names[row] for row in np.argsort(-worst) if worst[row] > ODD_TOLERANCE]
    found = f"off by {worst.max():.2g} (relative), allowed is {ODD_TOLERANCE:g}"
    if np.isinf(worst.max()):
        found = "one of the two is not finite"
    return (
        f"on {' and '.join(names[:2])}, made of a golden one, a logit is not the network's: "
        f"{found}; if no such image will come: --accept odd-images"
    )


def verify_engines(artifact: Artifact, progress: Progress) -> tuple[EngineAttempt, ...]:
    """Hold every certified engine of an artifact to its gates again.

    Runs what serving would run, a preprocessing class of the artifact's own included.

    Returns:
        One row an engine, in the evidence's order.

    Raises:
        SelfCheckFailed: The preprocessing gives other pixels than at import.
    """
    with progress.step(f"preprocess {len(artifact.manifest.golden)} golden samples"):
        golden = GoldenRun(
            root=artifact.root,
            input_spec=artifact.manifest.input,
            inputs=check_preprocessing(artifact, artifact.preprocessing),
            truth=golden_answers(artifact),
        )
    rows = []
    for engine in artifact.evidence.engines:
        # An engine may be unable to run on this machine, and raises what it likes then.
        try:
            with progress.step(f"{engine.name}: verify"):
                rows.append(_verified(artifact, engine, golden))
        except Exception as error:
            rows.append(_unavailable(engine, describe_failure(f"running {engine.name}", error)))
    return tuple(rows)


def _verified(artifact: Artifact, engine: CertifiedEngine, golden: GoldenRun) -> EngineAttempt:
    """Certify an engine at batch size one, and at each that serving would use."""
    sizes = {1}
    if artifact.record is not None and artifact.record.plan.engine == engine.name:
        sizes |= set(artifact.record.plan.batch_sizes)
    certificates: list[Certificate] = []
    failures = []
    load = _open(engine, golden.root, golden.input_spec)
    for size in sorted(sizes):
        logits = golden.logits(engine.name, load, size)
        certificate, failure = certify(logits, golden.truth, engine.precision, gates_of(engine))
        certificates.append(certificate)
        failures += [f"batch size {size}: {failure}"] if failure else []
    worst = max(certificates, key=lambda one: (-one.agreement, one.max_logit_difference))
    return _attempt(engine, worst, "; ".join(failures))


def _open(graph: EngineGraph, root: Path, input_spec: InputSpec) -> LoadEngine:
    """Do as `open_graph`.

    Raises:
        EngineUnavailable: This machine computes in another precision than the engine's name says:
            a certificate would prove the other one.
    """
    if (actual := effective_precision(graph)) != graph.precision:
        raise EngineUnavailable(
            f"this processor has no {graph.precision}, and the engine runs in {actual} instead; "
            f"{graph.name} can be certified on a processor that has it"
        )
    return open_graph(graph, root, input_spec.shape)


def _attempt(
    engine: EngineGraph, certificate: Certificate, failure: str, **measured: Any
) -> EngineAttempt:
    return EngineAttempt(
        engine=engine.name,
        verdict="failed" if failure else "passed",
        reason=failure,
        certificate=certificate,
        **measured,
    )


def _unavailable(engine: EngineGraph, reason: str) -> EngineAttempt:
    return EngineAttempt(engine=engine.name, verdict="unavailable", reason=reason)
