"""What a person or a program reads of an artifact."""

import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.evidence import Certificate, CertifiedEngine
from image_classifier.artifact.format import file_names
from image_classifier.artifact.manifest import InputSpec, Manifest, describe_geometry
from image_classifier.artifact.record import EngineAttempt, ImportRecord, Plan
from image_classifier.inference.plan import best_point


def print_summary(
    tag: str, known: bool, record: ImportRecord, manifest: Manifest, proof: Iterable[str]
) -> None:
    """Print the table of engines, what the proof rests on, and the tag."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for title in ("engine", *_compared_titles(record.attempts), "batch 1", "best", "verdict"):
        table.add_column(title, justify="left" if title in ("engine", "verdict") else "right")
    for attempt in record.attempts:
        table.add_row(*_cells(attempt, record.plan.engine, record.budget_ms))
    console.print(table)
    for attempt in record.attempts:
        if attempt.reason:
            console.print(f"{attempt.engine}: {attempt.reason}", markup=False, soft_wrap=True)
    console.print(
        f"\nserves with {_plan_in_words(record.plan)}; {len(manifest.golden)} golden samples",
        soft_wrap=True,
    )
    for sentence in proof:
        console.print(sentence, markup=False, soft_wrap=True)
    console.print(f"{'already in the store' if known else 'imported'}: {tag}", style="bold")


def _cells(attempt: EngineAttempt, chosen: str, budget_ms: float) -> Sequence[str]:
    single = [point for point in attempt.curve if point.batch_size == 1]
    fastest = min(single, key=lambda point: point.latency_ms, default=None)
    best = best_point(attempt.engine, attempt.curve, budget_ms) if attempt.curve else None
    return (
        attempt.engine,
        *_compared(attempt),
        "–" if fastest is None else f"{fastest.latency_ms:.2f} ms",
        "–" if best is None else f"{best.images_per_s:.0f}/s",
        "chosen" if attempt.engine == chosen else attempt.verdict,
    )


def _compared_titles(rows: Iterable[EngineAttempt | Certificate]) -> Sequence[str]:
    """Return the titles of the columns that `_compared` gives."""
    by_label = any(row.label_agreement is not None for row in rows)
    agreement = "agreement, worst label" if by_label else "top-1 agreement"
    return "max |Δlogit|", "max |Δprobability|", agreement


def _compared(row: EngineAttempt | Certificate) -> Sequence[str]:
    agreement = row.top1_agreement if row.label_agreement is None else row.label_agreement
    differences = (row.max_logit_difference, row.max_probability_difference)
    return (
        *("–" if number is None else f"{number:.2g}" for number in differences),
        "–" if agreement is None else f"{agreement:.1%}",
    )


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
        ("files", f"{len(artifact.pinned_files())}, {size / 1e6:.1f} MB"),
    ]
    if artifact.record is not None:
        facts += _record_facts(artifact.record)
    _print_facts(facts)
    _print_engines(evidence.engines)


def print_verification(tag: str, rows: Sequence[EngineAttempt]) -> None:
    """What became of each certificate on this machine."""
    table = _table("engine", *_compared_titles(rows), "verdict")
    reasons = []
    for row in rows:
        table.add_row(row.engine, *_compared(row), row.verdict)
        reasons += [f"{row.engine}: {row.reason}"] if row.reason else []
    console = Console(highlight=False)
    console.print(table)
    for reason in reasons:
        console.print(reason, markup=False, soft_wrap=True)
    console.print(f"verified: {tag}" if not reasons else f"not verified: {tag}", markup=False)


@dataclass(frozen=True, kw_only=True)
class ListRow:
    """One line of the list.

    Attributes:
        problem: Why it cannot be described; None where it can.
    """

    tag: str
    classes: int | None = None
    engines: tuple[str, ...] = ()
    imported_at: str | None = None
    problem: str | None = None


def print_list(rows: Iterable[ListRow]) -> None:
    """One line an artifact, and below one for each that cannot be described."""
    table = _table("tag", "classes", "engines", "imported")
    problems = []
    for row in rows:
        engines = ", ".join(row.engines) or "–"
        imported = printable(row.imported_at or "–")
        table.add_row(Text(printable(row.tag)), str(row.classes or "–"), engines, Text(imported))
        problems += [printable(f"{row.tag}: {row.problem}")] if row.problem else []
    console = Console(highlight=False)
    console.print(table)
    for problem in problems:
        console.print(problem, markup=False, soft_wrap=True)


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


def _print_facts(facts: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in facts)
    console = Console(highlight=False)
    for name, value in facts:
        console.print(f"{name:<{width}}  {printable(value)}", markup=False, soft_wrap=True)


def _print_engines(engines: Sequence[CertifiedEngine]) -> None:
    titles = _compared_titles([entry.certificate for entry in engines])
    table = _table("engine", *titles, "required", "accuracy", "reference")
    for entry in engines:
        proof = entry.certificate
        table.add_row(
            entry.name,
            *_compared(proof),
            f"{proof.required_agreement:.1%}",
            "–" if proof.accuracy is None else f"{proof.accuracy:.1%}",
            "–" if proof.reference_accuracy is None else f"{proof.reference_accuracy:.1%}",
        )
    console = Console(highlight=False)
    console.print()
    console.print(table)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title != "engines")
    return table
