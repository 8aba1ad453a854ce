"""What a person or a program reads of an artifact."""

import csv
import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.evidence import Certificate
from image_classifier.artifact.format import file_names
from image_classifier.artifact.record import EngineAttempt, ImportRecord, Plan
from image_classifier.artifact.store import Entry
from image_classifier.inference.plan import best_point
from preprocessing import PreprocessingSpec

if TYPE_CHECKING:  # they load torch and the engines
    from importer.pipeline import Imported
    from importer.prediction import FileAnswer


def summary(imported: "Imported") -> list[str]:
    """Return the table of engines, what the proof rests on, and the tag."""
    record, golden = imported.record, imported.manifest.golden
    return [
        *describe_attempts(record.attempts, record),
        "",
        f"serves with {_plan_in_words(record.plan)}; {len(golden)} golden samples",
        *imported.proof,
        f"{'already in the store' if imported.known else 'imported'}: {imported.lock.tag}",
    ]


def describe_attempts(
    attempts: Sequence[EngineAttempt], record: ImportRecord | None = None
) -> list[str]:
    """Return a line an engine, with what was measured where there is a record, and the reasons."""
    measured = ["batch 1", "best"] if record else []
    compared = [attempt.certificate for attempt in attempts if attempt.certificate]
    rows = [["engine", *_compared_titles(compared), *measured, "verdict"]]
    for attempt in attempts:
        rows.append([attempt.engine, *_compared(attempt.certificate)])
        if record:
            single = [point.latency_ms for point in attempt.curve if point.batch_size == 1]
            curve, budget_ms = attempt.curve, record.budget_ms
            best = None
            if curve:  # where engines were compared, in turn, this decided
                point = attempt.compared or best_point(attempt.engine, curve, budget_ms)
                best = point.images_per_s
            rows[-1] += [_number(min(single, default=None), ".2f", " ms")]
            rows[-1] += [_number(best, ".0f", "/s")]
        chosen = record is not None and attempt.engine == record.plan.engine
        rows[-1].append("chosen" if chosen else attempt.verdict)
    reasons = [f"{attempt.engine}: {attempt.reason}" for attempt in attempts if attempt.reason]
    return [*_table(rows), *reasons]


def _compared_titles(certificates: Iterable[Certificate]) -> Sequence[str]:
    """Return the titles of the columns that `_compared` gives."""
    by_label = any(proof.label_agreement is not None for proof in certificates)
    agreement = "agreement, worst label" if by_label else "top-1 agreement"
    return "max |Δlogit|", "max |Δprobability|", agreement


def _compared(certificate: Certificate | None) -> Sequence[str]:
    if certificate is None:
        return "–", "–", "–"
    probability_difference = _number(certificate.max_probability_difference, ".2g")
    return (
        f"{certificate.max_logit_difference:.2g}",
        probability_difference,
        f"{certificate.agreement:.1%}",
    )


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def print_lines(lines: Iterable[str]) -> None:
    """Print lines without control characters.

    They may hold names of another machine, and terminals obey such characters.
    """
    for line in lines:
        marks = ("·" if unicodedata.category(mark).startswith("C") else mark for mark in line)
        print("".join(marks))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows in aligned columns; no cell is cut, however narrow the terminal is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _plan_in_words(plan: Plan) -> str:
    sizes = ", ".join(map(str, plan.batch_sizes))
    single = ", a single image on all threads" if plan.single_stream else ""
    return (
        f"{plan.engine}: {plan.streams} streams, {plan.threads} threads, "
        f"batch sizes {sizes}{single}"
    )


def print_json(value: object) -> None:
    """Print one JSON document."""
    json.dump(value, sys.stdout, indent=2, sort_keys=True)
    sys.stdout.write("\n")


def describe_artifact(tag: str, artifact: Artifact) -> list[str]:
    """Return manifest, evidence and import record as a page."""
    manifest, evidence, record = artifact.manifest, artifact.evidence, artifact.record
    labels, entry, input_spec = artifact.labels(), manifest.preprocessing, manifest.input
    known = sum(golden.class_id is not None for golden in manifest.golden)
    size = sum(artifact.path_of(name).stat().st_size for name in file_names(artifact.root))
    preprocessing = f"class {entry.class_name} in {entry.file}"
    if entry.spec is not None:
        preprocessing = describe_geometry(entry.spec)
        if entry.spec.resize is not None:
            preprocessing += f", {entry.spec.resize.interpolation} ({entry.spec.resize.backend})"
    turned = "applied" if entry.decode.exif_orientation else "ignored"
    normalisation = "in the class"
    if input_spec.mean is not None:
        normalisation = f"mean {list(input_spec.mean)}, std {list(input_spec.std or ())}"
    reference = "the numbers given with --reference"
    if evidence.reference != "given":
        reference = "eager fp32 torch" if manifest.architecture else "the original graph, fp32"
    facts = [
        ("model", tag),
        ("manifest sha256", artifact.digest),
        ("evidence sha256", artifact.evidence_digest),
        ("network", str(manifest.architecture or "a graph as it was given (original/)")),
        ("classes", f"{manifest.num_classes}: {', '.join(labels[:3])}{', …' * (len(labels) > 3)}"),
        ("answer", manifest.outputs.in_words(manifest.num_classes, labels)),
        ("preprocessing", preprocessing),
        (
            "decoding",
            f"{entry.decode.mode}, EXIF orientation {turned}, alpha {entry.decode.alpha}",
        ),
        ("input", f"{'×'.join(map(str, input_spec.shape))} {input_spec.dtype}"),
        ("normalisation", normalisation),
        ("golden samples", f"{len(manifest.golden)}, {known} with a known class"),
        ("reference", reference),
        ("versions", ", ".join(f"{name} {value}" for name, value in evidence.versions.items())),
        ("weights ignored", ", ".join(evidence.ignored_weights) or "none"),
        ("files", f"{len(artifact.pinned_files())}, {size / 1e6:.1f} MB"),
    ]
    if record is not None:
        machine, images_per_s = record.machine, 1e3 / record.plan.service_time_ms
        facts += [
            ("imported", f"{record.imported_at} with: {record.command}"),
            ("program", record.source_commit or "not from a git checkout"),
            (
                "measured on",
                f"{machine.cpu}, {machine.cores} cores, {machine.accelerator or 'no GPU'}",
            ),
            ("plan", f"{_plan_in_words(record.plan)}, {images_per_s:.0f} images/s"),
        ]
    titles = _compared_titles(engine.certificate for engine in evidence.engines)
    rows = [["engine", *titles, "required", "accuracy", "reference"]]
    for engine in evidence.engines:
        proof = engine.certificate
        shares = (proof.required_agreement, proof.accuracy, proof.reference_accuracy)
        rows.append([engine.name, *_compared(proof), *(_number(share, ".1%") for share in shares)])
    return [*_table(facts), "", *_table(rows)]


def list_of_entries(entries: Iterable[Entry], locked: str | None) -> list[str]:
    """Return one line an artifact, and below one for each that cannot be described."""
    rows = [["tag", "imported", "network", "accuracy", "engine", "size", ""]]
    problems = []
    for entry in entries:
        when = entry.imported_at and f"{entry.imported_at.astimezone():%Y-%m-%d %H:%M}"
        accuracy = _number(entry.accuracy, ".1%")
        size = _number(entry.size_bytes and entry.size_bytes / 1e6, ".1f", " MB")
        cells = [when or "–", entry.network or "–", accuracy, entry.engine or "–", size]
        rows.append([entry.tag, *cells, "*" if entry.tag == locked else ""])
        problems += [f"{entry.tag}: {entry.problem}"] if entry.problem else []
    return [*_table(rows), *problems]


class AnswerPrinter:
    """Prints the answers of `predict` as they come; for JSON it collects them.

    Args:
        form: "text", "csv" or "json".
        number: What a prediction has.

    Attributes:
        results: For JSON, one object a file.
        errors: Files without an answer.
    """

    def __init__(self, form: str, number: Literal["probability", "score"]) -> None:
        self.results: list[dict[str, object]] = []
        self.errors = 0
        self._form = form
        self._number = number
        self._csv = csv.writer(sys.stdout, lineterminator="\n")
        if form == "csv":
            self._csv.writerow(("file", "rank", "label", "class_id", number, "error"))

    def add(self, answer: "FileAnswer") -> None:
        """Print or collect one answer."""
        self.errors += bool(answer.code)
        error = f"{answer.code}: {answer.message}" if answer.code else ""
        ranked = [
            (rank, one.label, one.class_id, getattr(one, self._number))
            for rank, one in enumerate(answer.predictions, start=1)
        ]
        if self._form == "json":
            told: dict[str, object] = {"predictions": [asdict(one) for one in answer.predictions]}
            if answer.code:
                told = {"error": {"code": answer.code, "message": answer.message}}
            self.results.append({"file": answer.file, **told})
        elif self._form == "text":
            labels = [f"{label} {number:.4g}" for _, label, _, number in ranked]
            print_lines([f"{answer.file}: {', '.join(labels) or error or 'no label'}"])
        else:
            if answer.code:
                self._csv.writerow((answer.file, "", "", "", "", error))
            for row in ranked:
                self._csv.writerow((answer.file, *row, ""))


def describe_geometry(spec: PreprocessingSpec) -> str:
    """Resize and crop in words."""
    resize = "no resize"
    if spec.resize is not None:
        kind = "the shorter side" if spec.resize.mode == "shorter_side" else "both sides (squash)"
        resize = f"resize {kind} to {spec.resize.size}"
    return f"{resize}, {'no crop' if spec.crop is None else f'crop {spec.crop}'}"
