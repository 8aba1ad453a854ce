"""From what a researcher hands in to an artifact in the store."""

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from image_classifier.artifact.evidence import CertifiedEngine, Evidence
from image_classifier.artifact.format import RECORD_NAME, SCHEMA_VERSION, FrozenModel
from image_classifier.artifact.manifest import Graph, Manifest, Outputs
from image_classifier.artifact.record import EngineAttempt, ImportRecord
from image_classifier.artifact.store import (
    ModelLock,
    add,
    check_lock_place,
    locate,
    staging_dir,
    tag_of,
    write_lock,
)
from image_classifier.inference.engine import Logits
from image_classifier.inference.engines.load import accelerator_of
from image_classifier.inference.machine import ABSENT_GPU, this_machine
from image_classifier.inference.plan import fastest_plan, plan_for
from importer.candidates import Comparison, Trial, chosen_candidates, graphs_of
from importer.diagnosis import Diagnosis, check_against_reference, comparison_with
from importer.errors import ImportRefused
from importer.interruption import uninterrupted
from importer.labels import check_label_count
from importer.materials import Materials, read_materials
from importer.options import ImportOptions
from importer.pixels_to_logits import PixelsToLogits, reference_logits
from importer.progress import Progress
from importer.shrinking import certify_shrinking
from importer.writing import (
    identity_files,
    installed_versions,
    keep_graphs,
    write_evidence,
    write_golden,
    write_labels,
    write_manifest,
    write_reference,
)
from preprocessing import conformance_digests


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


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import made.

    Attributes:
        known: Whether the store had the same artifact, with the same evidence, already.
    """

    lock: ModelLock
    known: bool
    manifest: Manifest
    evidence: Evidence
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
    with staging_dir() as root:
        materials = read_materials(options, root, progress)
        network = PixelsToLogits(materials.model.network, materials.input_spec).eval()
        with progress.step(f"run the reference on {len(materials.golden)} golden images"):
            reference = reference_logits(network, materials.inputs)
        check_label_count(materials.labels, reference.shape[1])
        shrinking = certify_shrinking(materials, network, reference, options.gates)
        if materials.reference is not None:
            reference = _given_reference(options, materials, reference, progress)
        trial = Trial(
            staging=root,
            network=network,
            input_spec=materials.input_spec,
            comparison=_comparison(materials, reference),
            options=options,
        )
        candidates = chosen_candidates(options, len(materials.golden), progress)
        engines, attempts = trial.run(candidates, progress)
        record = _record(options, provenance, engines, attempts)
        with progress.step("write the artifact"):
            manifest = _write(
                root, options.name, materials, graphs_of(candidates), reference.shape[1]
            )
            identity = write_manifest(root, manifest)
            evidence = Evidence(
                schema_version=SCHEMA_VERSION,
                identity_sha256=identity,
                reference="torch" if materials.reference is None else "given",
                reference_logits_sha256=write_reference(root, reference),
                engines=engines,
                shrinking=shrinking,
                versions=installed_versions(),
            )
            lock = ModelLock(
                tag=tag_of(options.name, identity),
                manifest_sha256=identity,
                evidence_sha256=write_evidence(root, evidence),
            )
            (root / RECORD_NAME).write_bytes(record.to_json())
            with uninterrupted():
                known = add(root, lock)
                if known:  # the same model measured again: the later measurement counts
                    (root / RECORD_NAME).replace(locate(lock.tag) / RECORD_NAME)
                write_lock(lock_path, lock)
    return Imported(lock=lock, known=known, manifest=manifest, evidence=evidence, record=record)


def _given_reference(
    options: ImportOptions, materials: Materials, logits: Logits, progress: Progress
) -> Logits:
    if materials.reference is None:
        return logits
    diagnosis = Diagnosis(
        network=materials.model.network,
        preprocessing=materials.preprocessing_entry,
        input_spec=materials.input_spec,
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


def _comparison(materials: Materials, reference: Logits) -> Comparison:
    return Comparison(
        inputs=materials.inputs,
        reference=reference,
        class_ids=tuple(image.label for image in materials.golden),
        calibration=materials.calibration,
    )


def _record(
    options: ImportOptions,
    provenance: Provenance,
    engines: tuple[CertifiedEngine, ...],
    attempts: tuple[EngineAttempt, ...],
) -> ImportRecord:
    if not engines:
        reasons = "; ".join(f"{attempt.engine}: {attempt.reason}" for attempt in attempts)
        raise ImportRefused(f"no engine passed: {reasons}")
    plans = [
        plan_for(attempt.engine, attempt.curve, options.budget_ms)
        for attempt in attempts
        if attempt.curve
    ]
    for_gpu = options.device == "cuda"
    accelerator = (accelerator_of(engines[0].kind) or ABSENT_GPU) if for_gpu else None
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
    graphs: tuple[Graph, ...],
    num_classes: int,
) -> Manifest:
    """Write everything that decides an answer, and the manifest that describes it."""
    write_labels(root, materials.labels)
    golden = write_golden(root, materials.golden, materials.inputs)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        num_classes=num_classes,
        architecture=materials.model.architecture,
        input=materials.input_spec,
        preprocessing=materials.preprocessing_entry,
        outputs=Outputs(),
        graphs=keep_graphs(root, graphs),
        conformance=conformance_digests(materials.preprocessing),
        golden=golden,
        files=identity_files(root),
    )
