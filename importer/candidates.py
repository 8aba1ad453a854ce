"""The engines an import tries: exported, certified, measured; and certified again later."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.evidence import Certificate, CertifiedEngine, EngineGraph
from image_classifier.artifact.manifest import Graph, InputSpec
from image_classifier.artifact.record import EngineAttempt, LatencyPoint, Plan
from image_classifier.inference.certificate import certify
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.engines.load import open_graph
from image_classifier.inference.executor import Executor
from image_classifier.inference.machine import usable_cores
from image_classifier.inference.plan import measure_curve
from image_classifier.inference.startup import check_preprocessing, gates_of
from importer.errors import ImportRefused
from importer.export import export_onnx, export_torchscript
from importer.options import ImportOptions
from importer.pixels_to_logits import PixelsToLogits
from importer.progress import Progress
from importer.quantise import quantise
from preprocessing.errors import OperatorError

ONNX_FILE = "engines/network.onnx"
TORCHSCRIPT_FILE = "engines/network.torchscript.pt"
INT8_FILE = "engines/network-int8.xml"
GRAPHS = (
    Graph(file=ONNX_FILE, format="onnx", precision="fp32"),
    Graph(
        file=INT8_FILE,
        format="openvino",
        precision="int8",
        companions=("engines/network-int8.bin",),
    ),
    Graph(file=TORCHSCRIPT_FILE, format="torchscript", precision="fp32"),
)
ENOUGH_SAMPLES = 100
"""Golden samples below which "auto" leaves bf16 and int8 out: an agreement of 99 % cannot be
told from one of 100 % on fewer."""
PAIRED = 16
"""Golden samples that also run in batches of two. A graph that mixes the images of a batch, or
has a batch size of one written into it, gives itself away on the first pair."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the engines are compared on.

    Attributes:
        inputs: Golden inputs, (n, H, W, C).
        reference: Reference logits, float32 (n, classes).
        class_ids: True class of each golden sample, or None.
        calibration: Inputs for quantisation, (m, H, W, C).
    """

    inputs: npt.NDArray[np.generic]
    reference: Logits
    class_ids: tuple[int | None, ...]
    calibration: npt.NDArray[np.generic]


CANDIDATES = (
    EngineGraph(kind="openvino", precision="fp32", file=ONNX_FILE),
    EngineGraph(kind="openvino", precision="bf16", file=ONNX_FILE),
    EngineGraph(kind="openvino", precision="int8", file=INT8_FILE),
    EngineGraph(kind="onnxruntime", precision="fp32", file=ONNX_FILE),
    EngineGraph(kind="torchscript", precision="fp32", file=TORCHSCRIPT_FILE),
    EngineGraph(kind="torchscript", precision="bf16", file=TORCHSCRIPT_FILE),
    EngineGraph(kind="torchscript", precision="fp16", file=TORCHSCRIPT_FILE),
)


def chosen_candidates(
    options: ImportOptions, samples: int, progress: Progress
) -> tuple[EngineGraph, ...]:
    """The engines to try for what was asked.

    "auto" as the engine means those of the target device; "auto" as the precision leaves
    reduced precision out where the golden samples are too few to tell.

    Raises:
        ImportRefused: No engine fits.
    """
    on_device = {"cpu": ("openvino", "onnxruntime"), "cuda": ("torchscript",)}[options.device]
    kinds = on_device if options.engine == "auto" else (options.engine,)
    chosen = [candidate for candidate in CANDIDATES if candidate.kind in kinds]
    if options.precision != "auto":
        chosen = [item for item in chosen if item.precision == options.precision]
    elif samples < ENOUGH_SAMPLES:
        left_out = sorted({item.precision for item in chosen} - {"fp32"})
        chosen = [item for item in chosen if item.precision == "fp32"]
        if left_out:
            progress.note(
                f"{' and '.join(left_out)} are tried from {ENOUGH_SAMPLES} golden images on; there "
                f"are {samples} (--golden; --precision tries one all the same)"
            )
    if not chosen:
        raise ImportRefused(
            f"--engine {options.engine} --precision {options.precision}: no such engine; there are "
            + ", ".join(candidate.name for candidate in CANDIDATES)
        )
    return tuple(chosen)


def graphs_of(candidates: Iterable[EngineGraph]) -> tuple[Graph, ...]:
    """Return the graphs that the candidates run."""
    files = {candidate.file for candidate in candidates}
    return tuple(graph for graph in GRAPHS if graph.file in files)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Compares candidates with the reference, in one staging directory."""

    staging: Path
    network: PixelsToLogits
    input_spec: InputSpec
    comparison: Comparison
    options: ImportOptions

    def run(
        self, candidates: Iterable[EngineGraph], progress: Progress
    ) -> tuple[tuple[CertifiedEngine, ...], tuple[EngineAttempt, ...]]:
        """The engines that are certified, and what became of each candidate."""
        entries, attempts = [], []
        for candidate in candidates:
            with progress.step(f"{candidate.name}: export, verify, measure"):
                entry, attempt = self._try(candidate)
            attempts.append(attempt)
            if entry is not None:
                entries.append(entry)
        return tuple(entries), tuple(attempts)

    def _try(self, candidate: EngineGraph) -> tuple[CertifiedEngine | None, EngineAttempt]:
        # Exporters and engines raise what they like for a network they cannot take: the
        # candidate becomes a row with its reason, and the import goes on with the others.
        try:
            write_graph(candidate, self.staging, self.network, self.comparison)
            certificate, failure = self._judged(candidate)
            curve = () if failure else self._curve(candidate)
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            if not isinstance(error, OperatorError):
                reason = f"{type(error).__name__}: {reason}"
            return None, EngineAttempt(engine=candidate.name, verdict="unavailable", reason=reason)
        entry = CertifiedEngine(**candidate.model_dump(), certificate=certificate)
        attempt = EngineAttempt(
            engine=candidate.name,
            verdict="failed" if failure else "passed",
            reason=failure,
            max_logit_difference=certificate.max_logit_difference,
            top1_agreement=certificate.top1_agreement,
            curve=curve,
        )
        return (None if failure else entry), attempt

    def _judged(self, candidate: EngineGraph) -> tuple[Certificate, str]:
        """Certificate of single images; why the engine fails on these or on pairs, else empty."""
        inputs = self.comparison.inputs
        single = self._logits(candidate, inputs, 1)
        pairs = self._logits(candidate, inputs[:PAIRED], 2)
        certificate, failure = self._certified(single, candidate)
        if not failure and (failure := self._mixing(pairs, single[:PAIRED], candidate)):
            failure = f"in batches of 2: {failure}"
        return certificate, failure

    def _logits(self, candidate: EngineGraph, inputs: Batch, batch_size: int) -> Logits:
        # One batch size at a time: OpenVINO keeps a copy of the weights for each.
        plan = Plan(
            engine=candidate.name,
            streams=1,
            threads=usable_cores(),
            batch_sizes=(batch_size,),
            service_time_ms=1,
        )
        shape, classes = self.input_spec.shape, self.comparison.reference.shape[1]
        engine = open_graph(candidate, self.staging, shape)(plan)
        executor = Executor(engine, plan, self.input_spec, classes)
        try:
            return executor.run_in_parts(inputs, batch_size)
        finally:
            executor.close()

    def _mixing(self, pairs: Logits, single: Logits, candidate: EngineGraph) -> str:
        """Why images in one batch change each other's logits; empty where they do not."""
        unknown = (None,) * len(single)
        return certify(pairs, single, unknown, candidate.precision, self.options.gates)[1]

    def _certified(self, logits: Logits, candidate: EngineGraph) -> tuple[Certificate, str]:
        compared = self.comparison
        return certify(
            logits, compared.reference, compared.class_ids, candidate.precision, self.options.gates
        )

    def _curve(self, graph: EngineGraph) -> tuple[LatencyPoint, ...]:
        return measure_curve(
            open_graph(graph, self.staging, self.input_spec.shape),
            self.comparison.inputs,
            usable_cores(),
            budget_ms=self.options.budget_ms,
            seconds=self.options.measure_seconds,
        )


def write_graph(
    candidate: EngineGraph, staging: Path, network: PixelsToLogits, comparison: Comparison
) -> None:
    """Write the candidate's graph into the staging directory, unless another candidate did."""
    path, onnx = staging / candidate.file, staging / ONNX_FILE
    path.parent.mkdir(exist_ok=True)
    if candidate.file == TORCHSCRIPT_FILE:
        _write_whole(path, lambda: export_torchscript(network, comparison.inputs, path))
        return
    _write_whole(onnx, lambda: export_onnx(network, comparison.inputs, onnx))
    if candidate.file != ONNX_FILE:
        _write_whole(path, lambda: quantise(onnx, comparison.calibration, path))


def _write_whole(path: Path, export: Callable[[], None]) -> None:
    """Export a graph that is not there yet; one that fails leaves no part of a file."""
    if path.exists():
        return
    try:
        export()
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def verify_engines(artifact: Artifact, progress: Progress) -> tuple[EngineAttempt, ...]:
    """Hold every certified engine to its gates again, with the golden samples.

    Runs what serving would run, a preprocessing class of the artifact's own included.

    Returns:
        One row an engine, in the evidence's order.

    Raises:
        SelfCheckFailed: The preprocessing gives other pixels than at import.
    """
    with progress.step(f"preprocess {len(artifact.manifest.golden)} golden samples"):
        inputs = check_preprocessing(artifact, artifact.preprocessing())
    rows = []
    for entry in artifact.evidence.engines:
        with progress.step(f"{entry.name}: verify"):
            rows.append(_verified(artifact, entry, inputs))
    return tuple(rows)


def _verified(artifact: Artifact, entry: CertifiedEngine, inputs: Batch) -> EngineAttempt:
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


def _logits(
    artifact: Artifact, entry: CertifiedEngine, inputs: Batch
) -> Iterator[tuple[int, Logits]]:
    """Logits of all inputs at each batch size that serving would use, and at one."""
    sizes = {1}
    if artifact.record is not None and artifact.record.plan.engine == entry.name:
        sizes |= set(artifact.record.plan.batch_sizes)
    input_spec = artifact.manifest.input
    plan = Plan(
        engine=entry.name,
        streams=1,
        threads=usable_cores(),
        batch_sizes=tuple(sorted(sizes)),
        service_time_ms=1,
    )
    engine = open_graph(entry, artifact.root, input_spec.shape)(plan)
    executor = Executor(engine, plan, input_spec, artifact.manifest.num_classes)
    try:
        for size in plan.batch_sizes:
            yield size, executor.run_in_parts(inputs, size)
    finally:
        executor.close()
