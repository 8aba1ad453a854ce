"""What a person or a program reads of an artifact."""

import csv
import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.evidence import Certificate, CertifiedEngine
from image_classifier.artifact.format import file_names
from image_classifier.artifact.manifest import InputSpec, Manifest, describe_geometry
from image_classifier.artifact.record import EngineAttempt, ImportRecord, Plan
from image_classifier.artifact.store import Facts
from image_classifier.inference.plan import best_point

if TYPE_CHECKING:  # they load torch and the engines
    from importer.pipeline import Imported
    from importer.prediction import FileAnswer


def print_summary(imported: "Imported") -> None:
    """Print the table of engines, what the proof rests on, and the tag."""
    record, golden = imported.record, imported.manifest.golden
    _print_attempts(record.attempts, record)
    lines = [f"\nserves with {_plan_in_words(record.plan)}; {len(golden)} golden samples"]
    _print_lines([*lines, *imported.proof])
    print(f"{'already in the store' if imported.known else 'imported'}: {imported.lock.tag}")


def print_verification(tag: str, rows: Sequence[EngineAttempt]) -> None:
    """What became of each certificate on this machine."""
    _print_attempts(rows, None)
    print(f"{'not ' * any(row.reason for row in rows)}verified: {tag}")


def _print_attempts(attempts: Sequence[EngineAttempt], record: ImportRecord | None) -> None:
    """Print a line an engine, with what was measured where there is a record, and the reasons."""
    table = _table("engine", *_compared_titles(attempts))
    for title in ("batch 1", "best") if record else ():
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for attempt in attempts:
        cells = [attempt.engine, *_compared(attempt)]
        if record:
            single = [point.latency_ms for point in attempt.curve if point.batch_size == 1]
            curve, budget_ms = attempt.curve, record.budget_ms
            best = best_point(attempt.engine, curve, budget_ms).images_per_s if curve else None
            cells += [_number(min(single, default=None), ".2f", " ms")]
            cells += [_number(best, ".0f", "/s")]
        chosen = record is not None and attempt.engine == record.plan.engine
        table.add_row(*cells, "chosen" if chosen else attempt.verdict)
    Console(highlight=False).print(table)
    _print_lines(f"{attempt.engine}: {attempt.reason}" for attempt in attempts if attempt.reason)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _compared_titles(rows: Iterable[EngineAttempt | Certificate]) -> Sequence[str]:
    """Return the titles of the columns that `_compared` gives."""
    by_label = any(row.label_agreement is not None for row in rows)
    agreement = "agreement, worst label" if by_label else "top-1 agreement"
    return "max |Δlogit|", "max |Δprobability|", agreement


def _compared(row: EngineAttempt | Certificate) -> Sequence[str]:
    agreement = row.top1_agreement if row.label_agreement is None else row.label_agreement
    differences = (row.max_logit_difference, row.max_probability_difference)
    return (*(_number(number, ".2g") for number in differences), _number(agreement, ".1%"))


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
    _print_facts(facts)
    _print_engines(evidence.engines)


@dataclass(frozen=True, kw_only=True)
class ListRow:
    """One line of the list.

    Attributes:
        locked: Whether model.lock names it.
        facts: None where it cannot be described.
        problem: Why it cannot be described; None where it can.
    """

    tag: str
    locked: bool
    facts: Facts | None = None
    size_bytes: int | None = None
    problem: str | None = None

    @property
    def order(self) -> tuple[float, str]:
        """Sorts the newest first, and those without a time last."""
        imported_at = self.facts and self.facts.imported_at
        return -imported_at.timestamp() if imported_at else 0.0, self.tag

    def as_json(self) -> dict[str, object]:
        """Return plain values, None for what is not known."""
        facts = {one.name: getattr(self.facts, one.name, None) for one in fields(Facts)}
        imported_at = self.facts and self.facts.imported_at
        return {
            **facts,
            "imported_at": imported_at and imported_at.isoformat(),
            **{name: value for name, value in vars(self).items() if name != "facts"},
        }


def print_list(rows: Iterable[ListRow]) -> None:
    """One line an artifact, and below one for each that cannot be described."""
    table = _table("", "tag", "imported", "network", "accuracy", "engine", "size")
    problems = []
    for row in rows:
        cells = ["–"] * 5
        if facts := row.facts:
            when = facts.imported_at and facts.imported_at.astimezone()
            cells = [
                when.strftime("%Y-%m-%d %H:%M") if when else "–",
                facts.network,
                _number(facts.accuracy, ".1%"),
                facts.engine,
                _number(row.size_bytes and row.size_bytes / 1e6, ".1f", " MB"),
            ]
        line = ["*" if row.locked else "", row.tag, *cells]
        table.add_row(*(Text(printable(cell)) for cell in line))
        problems += [printable(f"{row.tag}: {row.problem}")] if row.problem else []
    Console(highlight=False).print(table)
    _print_lines(problems)


class AnswerPrinter:
    """Prints the answers of `predict` as they come; for JSON it collects them.

    Args:
        value: What a prediction holds beside its label.

    Attributes:
        results: For JSON, one object a file.
        errors: Files without an answer.
    """

    def __init__(
        self, form: Literal["text", "csv", "json"], *, value: Literal["probability", "score"]
    ) -> None:
        self.results: list[dict[str, object]] = []
        self.errors = 0
        self._form = form
        self._value = value
        self._csv = csv.writer(sys.stdout, lineterminator="\n")
        if form == "csv":
            self._csv.writerow(("file", "rank", "label", "class_id", value, "error"))

    def add(self, answer: "FileAnswer") -> None:
        """Print or collect one answer."""
        self.errors += bool(answer.code)
        error = f"{answer.code}: {answer.message}" if answer.code else ""
        ranked = enumerate(answer.predictions, start=1)
        if self._form == "json":
            told: dict[str, object] = {"predictions": [asdict(one) for one in answer.predictions]}
            if answer.code:
                told = {"error": {"code": answer.code, "message": answer.message}}
            self.results.append({"file": answer.file, **told})
        elif self._form == "text":
            labels = [f"{one.label} {getattr(one, self._value):.4g}" for _, one in ranked]
            print(printable(f"{answer.file}: {', '.join(labels) or error or 'no label'}"))
        else:
            if answer.code:
                self._csv.writerow((answer.file, "", "", "", "", error))
            for rank, one in ranked:
                value = getattr(one, self._value)
                self._csv.writerow((answer.file, rank, one.label, one.class_id, value, ""))


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
            _number(proof.accuracy, ".1%"),
            _number(proof.reference_accuracy, ".1%"),
        )
    console = Console(highlight=False)
    console.print()
    console.print(table)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title != "engines")
    return table
