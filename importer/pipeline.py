"""From what a researcher hands in to an artifact in the store."""

import importlib.metadata
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import numpy as np

from image_classifier.artifact.format import (
    GOLDEN_LOGITS_NAME,
    LABELS_NAME,
    MANIFEST_NAME,
    RECORD_NAME,
    FrozenModel,
    file_names,
    sha256_bytes,
    sha256_tree,
)
from image_classifier.artifact.manifest import SCHEMA_VERSION, EngineEntry, GoldenEntry, Manifest
from image_classifier.artifact.record import EngineAttempt, ImportRecord
from image_classifier.artifact.store import (
    ModelLock,
    add,
    check_lock_place,
    draft,
    locate,
    write_lock,
)
from image_classifier.inference.engine import Logits
from image_classifier.inference.engines.load import accelerator_of
from image_classifier.inference.machine import ABSENT_GPU, this_machine
from image_classifier.inference.plan import fastest_plan, plan_for
from importer.candidates import Evidence, Trial, chosen_candidates
from importer.diagnosis import Diagnosis, check_against_reference, comparison_with
from importer.errors import ImportRefused
from importer.interruption import uninterrupted
from importer.labels import check_label_count
from importer.materials import Materials, read_materials
from importer.options import ImportOptions
from importer.pixels_to_logits import PixelsToLogits, reference_logits
from importer.progress import Progress
from importer.shrinking import certify_shrinking


class Provenance(FrozenModel):
    """How an import came about.

    Attributes:
        command: The command line, as typed after `python`.
        source_commit: Commit of this program; "-dirty" where files differ; None outside git.
        imported_at: UTC, ISO 8601, seconds.
    """

    command: str
    source_commit: str | None
    imported_at: str


def current_provenance(root: Path) -> Provenance:
    """Provenance of the running command; `root` is this program's checkout."""
    return Provenance(
        command=" ".join(sys.argv),
        source_commit=source_commit(root),
        imported_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def source_commit(root: Path) -> str | None:
    """Commit checked out in `root`, with "-dirty" where tracked files differ; None outside git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


RELEVANT_PACKAGES = (
    "nncf",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "pillow",
    "torch",
    "torchvision",
)
"""Libraries whose version may change a number of the model."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import made.

    Attributes:
        known: Whether the store had the same artifact already.
    """

    lock: ModelLock
    known: bool
    manifest: Manifest
    record: ImportRecord


def import_model(
    options: ImportOptions, lock_path: Path, provenance: Provenance, progress: Progress
) -> Imported:
    """Import a trained model: read, export, verify, measure, store, lock.

    The store and the lock change at the very end only, each in one move.

    Raises:
        OperatorError: Why the model was not imported.
    """
    check_lock_place(lock_path)
    with draft() as root:
        materials = read_materials(options, root, progress)
        network = PixelsToLogits(materials.model.network, materials.signature).eval()
        with progress.step(f"run the reference on {len(materials.golden)} golden images"):
            reference = reference_logits(network, materials.inputs)
        check_label_count(materials.labels, reference.shape[1])
        shrinking = certify_shrinking(materials, network, reference, options.gates)
        if materials.reference is not None:
            reference = _given_reference(options, materials, reference, progress)
        trial = Trial(
            draft=root,
            network=network,
            signature=materials.signature,
            evidence=_evidence(materials, reference),
            options=options,
        )
        candidates = chosen_candidates(options, len(materials.golden), progress)
        entries, attempts = trial.run(candidates, progress)
        record = _record(options, provenance, entries, attempts)
        with progress.step("write the artifact"):
            signature = materials.signature.model_copy(update={"shrinking": shrinking})
            materials = replace(materials, signature=signature)
            manifest = _write(root, options.name, materials, reference, entries)
            (root / RECORD_NAME).write_bytes(record.to_json())
            with uninterrupted():
                lock, known = add(root, manifest)
                if known:  # the same model measured anew: what is newer counts
                    (root / RECORD_NAME).replace(locate(lock.tag) / RECORD_NAME)
                write_lock(lock_path, lock)
    return Imported(lock=lock, known=known, manifest=manifest, record=record)


def _given_reference(
    options: ImportOptions, materials: Materials, logits: Logits, progress: Progress
) -> Logits:
    if materials.reference is None:
        return logits
    diagnosis = Diagnosis(
        network=materials.model.network,
        signature=materials.signature,
        images=materials.golden,
        inputs=materials.inputs,
        comparison=comparison_with(
            materials.reference,
            materials.golden,
            logits.shape[1],
            options.gates.fp32_tolerance,
        ),
    )
    return check_against_reference(diagnosis, logits, progress)


def _evidence(materials: Materials, reference: Logits) -> Evidence:
    return Evidence(
        inputs=materials.inputs,
        reference=reference,
        class_ids=tuple(image.label for image in materials.golden),
        calibration=materials.calibration,
    )


def _record(
    options: ImportOptions,
    provenance: Provenance,
    entries: tuple[EngineEntry, ...],
    attempts: tuple[EngineAttempt, ...],
) -> ImportRecord:
    if not entries:
        reasons = "; ".join(f"{attempt.engine}: {attempt.reason}" for attempt in attempts)
        raise ImportRefused(f"no engine passed: {reasons}")
    plans = [
        plan_for(attempt.engine, attempt.curve, options.budget_ms)
        for attempt in attempts
        if attempt.curve
    ]
    for_gpu = options.device == "cuda"
    accelerator = (accelerator_of(entries[0].kind) or ABSENT_GPU) if for_gpu else None
    return ImportRecord(
        imported_at=provenance.imported_at,
        command=provenance.command,
        source_commit=provenance.source_commit,
        machine=this_machine(accelerator),
        budget_ms=options.budget_ms,
        attempts=attempts,
        plan=fastest_plan(plans),
    )


def _write(
    root: Path,
    name: str,
    materials: Materials,
    reference: Logits,
    entries: tuple[EngineEntry, ...],
) -> Manifest:
    (root / LABELS_NAME).write_text(json.dumps(materials.labels, ensure_ascii=False) + "\n")
    _drop_refused_graphs(root, entries)
    golden = _write_golden(root, materials, reference)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        num_classes=reference.shape[1],
        architecture=materials.model.architecture,
        preprocessing=materials.signature,
        engines=entries,
        golden=golden,
        reference="torch" if materials.reference is None else "given",
        versions={package: importlib.metadata.version(package) for package in RELEVANT_PACKAGES},
        files=sha256_tree(root, file_names(root)),
    )
    (root / MANIFEST_NAME).write_bytes(manifest.to_json())
    return manifest


def _write_golden(root: Path, materials: Materials, reference: Logits) -> tuple[GoldenEntry, ...]:
    entries = []
    for number, image in enumerate(materials.golden):
        # Numbered: names of the researcher's may clash or hold odd characters.
        suffix = PurePosixPath(image.name).suffix.lower()
        file = f"golden/{number:04}{suffix}"
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_bytes(image.data)
        entries.append(
            GoldenEntry(
                file=file,
                name=image.name,
                class_id=image.label,
                input_sha256=sha256_bytes(materials.inputs[number].tobytes()),
            )
        )
    np.save(root / GOLDEN_LOGITS_NAME, reference, allow_pickle=False)
    return tuple(entries)


def _drop_refused_graphs(root: Path, entries: tuple[EngineEntry, ...]) -> None:
    used = {file for entry in entries for file in (entry.file, *entry.companions)}
    for path in (root / "engines").iterdir():
        if path.relative_to(root).as_posix() not in used:
            path.unlink()
