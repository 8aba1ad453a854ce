"""What a person or a program reads of an artifact."""

import csv
import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.evidence import Certificate, CertifiedEngine
from image_classifier.artifact.format import file_names
from image_classifier.artifact.manifest import InputSpec, Manifest, describe_geometry
from image_classifier.artifact.record import EngineAttempt, ImportRecord, Plan
from image_classifier.artifact.store import Entry
from image_classifier.inference.plan import best_point

if TYPE_CHECKING:  # they load torch and the engines
    from importer.pipeline import Imported
    from importer.prediction import FileAnswer


def print_summary(imported: "Imported") -> None:
    """Print the table of engines, what the proof rests on, and the tag."""
    record, golden = imported.record, imported.manifest.golden
    _print_attempts(record.attempts, record)
    serving = f"serves with {_plan_in_words(record.plan)}; {len(golden)} golden samples"
    _print_lines(["", serving, *imported.proof])
    print(f"{'already in the store' if imported.known else 'imported'}: {imported.lock.tag}")


def print_verification(tag: str, rows: Sequence[EngineAttempt]) -> None:
    """What became of each certificate on this machine."""
    _print_attempts(rows, None)
    print(f"{'not ' * any(row.reason for row in rows)}verified: {tag}")


def _print_attempts(attempts: Sequence[EngineAttempt], record: ImportRecord | None) -> None:
    """Print a line an engine, with what was measured where there is a record, and the reasons."""
    measured = ["batch 1", "best"] if record else []
    rows = [["engine", *_compared_titles(attempts), *measured, "verdict"]]
    for attempt in attempts:
        rows.append([attempt.engine, *_compared(attempt)])
        if record:
            single = [point.latency_ms for point in attempt.curve if point.batch_size == 1]
            curve, budget_ms = attempt.curve, record.budget_ms
            best = best_point(attempt.engine, curve, budget_ms).images_per_s if curve else None
            rows[-1] += [_number(min(single, default=None), ".2f", " ms")]
            rows[-1] += [_number(best, ".0f", "/s")]
        chosen = record is not None and attempt.engine == record.plan.engine
        rows[-1].append("chosen" if chosen else attempt.verdict)
    _print_table(rows)
    _print_lines(f"{attempt.engine}: {attempt.reason}" for attempt in attempts if attempt.reason)


def _compared_titles(rows: Iterable[EngineAttempt | Certificate]) -> Sequence[str]:
    """Return the titles of the columns that `_compared` gives."""
    by_label = any(row.label_agreement is not None for row in rows)
    agreement = "agreement, worst label" if by_label else "top-1 agreement"
    return "max |Δlogit|", "max |Δprobability|", agreement


def _compared(row: EngineAttempt | Certificate) -> Sequence[str]:
    agreement = row.top1_agreement if row.label_agreement is None else row.label_agreement
    differences = (row.max_logit_difference, row.max_probability_difference)
    return *(_number(number, ".2g") for number in differences), _number(agreement, ".1%")


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(printable(line))


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns; no cell is cut, however narrow the terminal is."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def _plan_in_words(plan: Plan) -> str:
    sizes = ", ".join(map(str, plan.batch_sizes))
    single = ", a single image on all threads" if plan.single_stream else ""
    return (
        f"{plan.engine}: {plan.streams} streams, {plan.threads} threads, "
        f"batch sizes {sizes}{single}"
    )


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=2, sort_keys=True)
    sys.stdout.write("\n")


def print_artifact(tag: str, artifact: Artifact) -> None:
    """Print manifest, evidence and import record as a page."""
    manifest, evidence = artifact.manifest, artifact.evidence
    labels = artifact.labels()
    size = sum(artifact.path_of(name).stat().st_size for name in file_names(artifact.root))
    known = sum(entry.class_id is not None for entry in manifest.golden)
    golden = f"{len(manifest.golden)}, {known} with a known class"
    facts = [
        ("model", tag),
        ("manifest sha256", artifact.digest),
        ("evidence sha256", artifact.evidence_digest),
        ("network", str(manifest.architecture or "a graph as it was given (original/)")),
        ("classes", f"{manifest.num_classes}: {', '.join(labels[:3])}{', …' * (len(labels) > 3)}"),
        ("answer", manifest.outputs.in_words(manifest.num_classes, labels)),
        *_preprocessing_facts(manifest),
        ("golden samples", golden),
        ("reference", _reference(artifact)),
        ("versions", ", ".join(f"{name} {value}" for name, value in evidence.versions.items())),
        ("weights ignored", ", ".join(evidence.ignored_weights) or "none"),
        ("files", f"{len(artifact.pinned_files())}, {size / 1e6:.1f} MB"),
    ]
    if artifact.record is not None:
        facts += _record_facts(artifact.record)
    _print_table(facts)
    print()
    _print_engines(evidence.engines)


def print_list(entries: Iterable[Entry], locked: str | None) -> None:
    """One line an artifact, and below one for each that cannot be described."""
    rows = [["tag", "imported", "network", "accuracy", "engine", "size", ""]]
    problems = []
    for entry in entries:
        when = entry.imported_at and f"{entry.imported_at.astimezone():%Y-%m-%d %H:%M}"
        accuracy = _number(entry.accuracy, ".1%")
        size = _number(entry.size_bytes and entry.size_bytes / 1e6, ".1f", " MB")
        cells = [when or "–", entry.network or "–", accuracy, entry.engine or "–", size]
        rows.append([entry.tag, *cells, "*" if entry.tag == locked else ""])
        problems += [f"{entry.tag}: {entry.problem}"] if entry.problem else []
    _print_table(rows)
    _print_lines(problems)


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
            print(printable(f"{answer.file}: {', '.join(labels) or error or 'no label'}"))
        else:
            if answer.code:
                self._csv.writerow((answer.file, "", "", "", "", error))
            for row in ranked:
                self._csv.writerow((answer.file, *row, ""))


def print_nothing() -> None:
    """Print nothing: the answers stand there already."""


def printable(text: str) -> str:
    """`text` without control characters: it may come from another machine, and terminals obey."""
    return "".join("·" if unicodedata.category(mark).startswith("C") else mark for mark in text)


def _preprocessing_facts(manifest: Manifest) -> list[tuple[str, str]]:
    entry, input_spec = manifest.preprocessing, manifest.input
    height, width, channels = input_spec.shape
    source = f"class {entry.class_name} in {entry.file}"
    if entry.spec is not None:
        resize = entry.spec.resize
        filtered = "" if resize is None else f", {resize.interpolation} ({resize.backend})"
        source = f"{describe_geometry(entry.spec)}{filtered}"
    does = "applied" if entry.decode.exif_orientation else "ignored"
    return [
        ("preprocessing", source),
        ("decoding", f"{entry.decode.mode}, EXIF orientation {does}, alpha {entry.decode.alpha}"),
        ("input", f"{height}×{width}×{channels} {input_spec.dtype}"),
        (
            "normalisation",
            "in the class" if input_spec.mean is None else _normalisation(input_spec),
        ),
    ]


def _normalisation(input_spec: InputSpec) -> str:
    return f"mean {list(input_spec.mean or ())}, std {list(input_spec.std or ())}, in the graph"


def _reference(artifact: Artifact) -> str:
    if artifact.evidence.reference == "given":
        return "the numbers given with --reference"
    eager = artifact.manifest.architecture is not None
    return "eager fp32 torch at import" if eager else "the original graph, fp32"


def _record_facts(record: ImportRecord) -> list[tuple[str, str]]:
    plan, machine = record.plan, record.machine
    return [
        ("imported", f"{record.imported_at} with: {record.command}"),
        ("program", record.source_commit or "not from a git checkout"),
        ("measured on", f"{machine.cpu}, {machine.cores} cores, {machine.accelerator or 'no GPU'}"),
        (
            "plan",
            f"{_plan_in_words(plan)}, {1e3 / plan.service_time_ms:.0f} images/s",
        ),
    ]


def _print_engines(engines: Iterable[CertifiedEngine]) -> None:
    titles = _compared_titles([entry.certificate for entry in engines])
    rows = [["engine", *titles, "required", "accuracy", "reference"]]
    for entry in engines:
        proof = entry.certificate
        shares = (proof.required_agreement, proof.accuracy, proof.reference_accuracy)
        rows.append([entry.name, *_compared(proof), *(_number(share, ".1%") for share in shares)])
    _print_table(rows)
