"""Artifacts, engines and predictions as text for people and JSON for programs."""

import csv
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.evidence import Certificate
from image_classifier.artifact.format import file_names
from image_classifier.artifact.record import ImportRecord, Plan
from image_classifier.artifact.store import Entry
from image_classifier.inference.plan import ENOUGH_PER_CORE, compared_point
from importer.process import printable

if TYPE_CHECKING:  # loads torch
    from importer.pipeline import Imported
    from importer.prediction import FileAnswer

CERTIFICATE_COLUMNS = ("max |Δlogit|", "max |Δprobability|", "agreement")


def summary(imported: "Imported", proof: Sequence[str]) -> list[str]:
    """Return the table of engines, the sentences on what is proven, and the tag."""
    record, golden = imported.record, imported.manifest.golden
    rows = [["engine", *CERTIFICATE_COLUMNS, "batch 1", "best", "verdict"]]
    for attempt in record.attempts:
        single = [point.latency_ms for point in attempt.curve if point.batch_size == 1]
        best = compared_point(attempt, record.budget_ms)
        cells = [
            attempt.engine,
            *_certificate_cells(attempt.certificate),
            _number(min(single, default=None), ".2f", " ms"),
            _number(best.images_per_s if best else None, ".0f", "/s"),
            "chosen" if attempt.engine == record.plan.engine else attempt.verdict,
        ]
        rows.append(cells)
    return [
        *_table(rows),
        *reasons(record),
        "",
        f"serves with {_plan_in_words(record.plan)}; {len(golden)} golden images",
        *proof,
        f"{'already in the store' if imported.known else 'imported'}: {imported.lock.tag}",
    ]


def reasons(record: ImportRecord) -> list[str]:
    """Return a line for each engine that failed, or was measured as faster than the chosen one."""
    points = {
        attempt.engine: point
        for attempt in record.attempts
        if (point := compared_point(attempt, record.budget_ms))
    }
    serves = record.plan.engine
    lines = []
    for attempt in record.attempts:
        reason, point = attempt.reason, points.get(attempt.engine)
        if point and point.images_per_s > points[serves].images_per_s:
            reason = "not a tenth faster beyond the noise"
            if point.images_per_s > ENOUGH_PER_CORE * point.threads:
                reason = "faster than HTTP"
            reason += f", so the earlier {serves} serves"
        lines += [f"{attempt.engine}: {reason}"] if reason else []
    return lines


def _certificate_cells(certificate: Certificate | None) -> tuple[str, str, str]:
    if certificate is None:
        return "–", "–", "–"
    agreement = f"{certificate.agreement:.1%}"
    if certificate.label_agreement is not None:
        agreement += " (worst label)"
    return (
        f"{certificate.max_logit_difference:.2g}",
        _number(certificate.max_probability_difference, ".2g"),
        agreement,
    )


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def print_lines(lines: Iterable[str]) -> None:
    """Print lines without control characters."""
    for line in lines:
        print(printable(line))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows in aligned columns, without cutting any cell."""
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


def describe_artifact(tag: str, artifact: Artifact) -> list[str]:
    """Return manifest, evidence and import record as a page."""
    manifest, evidence, record = artifact.manifest, artifact.evidence, artifact.record
    labels, entry = artifact.labels(), manifest.preprocessing
    labelled = sum(golden.class_id is not None for golden in manifest.golden)
    size = sum(artifact.path_of(name).stat().st_size for name in file_names(artifact.root))
    preprocessing = f"class {entry.class_name} in {entry.file}"
    if entry.spec is not None:
        preprocessing = entry.spec.model_dump_json(exclude={"decode"})
    reference = "the numbers given with --reference"
    if evidence.reference != "given":
        reference = "eager fp32 torch" if manifest.architecture else "the original graph, fp32"
    facts = [
        ("model", tag),
        ("manifest sha256", artifact.digest),
        ("evidence sha256", artifact.evidence_digest),
        ("network", str(manifest.architecture or "the original graph (original/)")),
        ("classes", f"{manifest.num_classes}: {', '.join(labels[:3])}{', …' * (len(labels) > 3)}"),
        ("answer", manifest.outputs.in_words(manifest.num_classes, labels)),
        ("preprocessing", preprocessing),
        ("decoding", entry.decode.model_dump_json()),
        ("input", manifest.input.model_dump_json()),
        ("golden images", f"{len(manifest.golden)}, {labelled} with a known class"),
        ("reference", reference),
        ("versions", ", ".join(f"{name} {value}" for name, value in evidence.versions.items())),
        ("weights ignored", ", ".join(evidence.ignored_weights) or "none"),
        ("files", f"{len(artifact.pinned_files())}, {size / 1e6:.1f} MB"),
    ]
    machine, images_per_s = record.machine, 1e3 / record.plan.service_time_ms
    facts += [
        ("first import", record.first_command or "this one"),
        ("imported", f"{record.imported_at} with: {record.command}"),
        ("proof", "; ".join(record.proof) or "not recorded"),
        ("program", record.source_commit or "not from a git checkout"),
        (
            "measured on",
            f"{machine.cpu}, {machine.cores} cores, {machine.accelerator or 'no GPU'}",
        ),
        ("plan", f"{_plan_in_words(record.plan)}, {images_per_s:.0f} images/s"),
    ]
    rows = [["engine", *CERTIFICATE_COLUMNS, "required", "accuracy", "reference"]]
    for engine in evidence.engines:
        proof = engine.certificate
        shares = (proof.required_agreement, proof.accuracy, proof.reference_accuracy)
        percents = [_number(share, ".1%") for share in shares]
        rows.append([engine.name, *_certificate_cells(proof), *percents])
    return [*_table(facts), "", *_table(rows)]


def list_of_entries(entries: Iterable[Entry], locked: str | None) -> list[str]:
    """Return a line per artifact, then a line per artifact that cannot be described."""
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


def print_answers(
    answers: Iterable["FileAnswer"], form: str, number: Literal["probability", "score"]
) -> tuple[list[dict[str, object]], int]:
    """Print the answers of `predict` as they come, or collect them for JSON.

    Args:
        form: "text", "csv" or "json".
        number: The number that a prediction has.

    Returns:
        For JSON, one object per file; and the number of files without an answer.
    """
    results: list[dict[str, object]] = []
    errors = 0
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if form == "csv":
        writer.writerow(("file", "rank", "label", "class_id", number, "error"))
    for answer in answers:
        errors += bool(answer.code)
        error = f"{answer.code}: {answer.message}" if answer.code else ""
        rows = [(item.label, item.class_id, getattr(item, number)) for item in answer.predictions]
        if form == "text":
            labels = ", ".join(f"{label} {value:.4g}" for label, _, value in rows)
            print_lines([f"{answer.file}: {labels or error or 'no label'}"])
        elif form == "csv":
            if not rows:  # an error, or no label reaches the threshold
                writer.writerow((answer.file, "", "", "", "", error))
            writer.writerows((answer.file, n, *row, "") for n, row in enumerate(rows, start=1))
        elif error:
            content = {"code": answer.code, "message": answer.message}
            results.append({"file": answer.file, "error": content})
        else:
            predictions = [asdict(item) for item in answer.predictions]
            results.append({"file": answer.file, "predictions": predictions})
    return results, errors
