"""An import, from a trained network to an artifact in the store."""

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from image_classifier.artifact.evidence import Evidence
from image_classifier.artifact.format import RECORD_NAME, SCHEMA_VERSION, FrozenModel
from image_classifier.artifact.manifest import InputSpec, Manifest, Outputs
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
from image_classifier.inference.engines.load import accelerator_of
from image_classifier.inference.machine import ABSENT_GPU, this_machine
from image_classifier.inference.plan import fastest_plan
from importer.candidates import choose_candidates, graphs_of
from importer.captured_preprocessing import capture_preprocessing
from importer.certification import certify_all
from importer.diagnosis import check_against_reference
from importer.errors import ImportRefused
from importer.export import export_all
from importer.golden_images import GoldenImage, decoding_notes, read_golden_images
from importer.labels import LabelFile, check_label_count, read_labels
from importer.network import ModelSource, activation_of, read_graph, read_network, takes_batches
from importer.options import ImportOptions
from importer.pixels_to_logits import PixelsToLogits, run_reference
from importer.plausibility import (
    PAIRED_IMAGES,
    Finding,
    batch_dependent,
    channel_order,
    check_activation,
    check_findings,
    constant_logits,
    implausible_labels,
    input_range,
    mean_std_scale,
    output_kind,
    random_preprocessing,
    rows_to_swap,
    run_batch,
    unstable_reference,
    what_the_proof_rests_on,
)
from importer.process import uninterrupted
from importer.progress import Progress
from importer.reference import Reference, check_label_order, read_reference
from importer.shrinking import certify_shrinking
from importer.targets import decide_targets
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
from preprocessing import DecodeLimits, Preprocessing, conformance_digests, to_input
from preprocessing.errors import ImageRejected


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


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import made.

    Attributes:
        known: Whether the store had the same artifact, with the same evidence, already.
        proof: What the proof rests on and what is unproven, in sentences.
    """

    lock: ModelLock
    known: bool
    manifest: Manifest
    evidence: Evidence
    record: ImportRecord
    proof: tuple[str, ...]


def import_model(
    options: ImportOptions, lock_path: Path, provenance: Provenance, progress: Progress
) -> Imported:
    """Import a trained model: read, run the reference, export, certify, measure, store, lock.

    The store and the lock change at the very end only, each in one move.

    Raises:
        OperatorError: Why the model was not imported.
    """
    check_lock_place(lock_path)
    with staging_dir() as root:
        with progress.step("read the network and its weights"):
            if options.network is None:
                model = read_graph(Path(options.weights), root)
            else:
                model = read_network(
                    options.network,
                    options.network_kwargs,
                    options.weights,
                    root,
                    weights_key=options.weights_key,
                    weights_prefix=options.weights_prefix,
                    weights_ignore=options.weights_ignore,
                )
        for note in model.notes:
            progress.note(note)
        preprocessing, entry = capture_preprocessing(options.preprocessing, model.published, root)
        input_spec = InputSpec.of(preprocessing)
        given = None if options.reference is None else read_reference(options.reference)
        named = _labels(options.labels, model, given)
        notes = [
            *named.notes,
            *check_findings([mean_std_scale(input_spec.mean, input_spec.std)], options.accept),
        ]

        with progress.step("read and preprocess the golden images"):
            golden = read_golden_images(
                options.golden,
                options.golden_count,
                options.golden_labels,
                among=None if given is None else given.by_name.keys(),
            )
            inputs = _inputs(golden.images, preprocessing)
            repeated = inputs if entry.spec is not None else _inputs(golden.images, preprocessing)
            calibration = inputs
            if options.calibration is not None:
                images = read_golden_images(options.calibration, options.calibration_count).images
                calibration = _inputs(images, preprocessing)
        names = [image.name for image in golden.images]
        notes += golden.notes
        notes += decoding_notes(golden.images, preprocessing.decode)
        notes += check_findings(
            [random_preprocessing(names, inputs, repeated), input_range(inputs)], options.accept
        )

        network = PixelsToLogits(model.network, input_spec).eval()
        with progress.step(f"run the reference on {len(golden.images)} golden images"):
            reference = run_reference(network, inputs, root / "architecture")
            notes += check_findings(_unstable(network, inputs, reference), options.accept)
        activation = activation_of(model, network, torch.from_numpy(inputs[:1]), options.activation)
        check_activation(output_kind(reference), activation, asked=options.activation)
        check_label_count(named.labels, reference.shape[1], activation)
        if given is not None:
            reference = check_against_reference(
                given,
                reference,
                network=model.network,
                preprocessing=entry,
                input_spec=input_spec,
                images=golden.images,
                inputs=inputs,
                tolerance=options.gate_fp32_tolerance,
                progress=progress,
            )
        targets = decide_targets(
            golden,
            named.labels,
            reference,
            options.accept,
            notebook_labels=None if given is None else given.labels,
        )
        labels, class_ids = targets.labels, targets.class_ids
        if given is not None:
            check_label_order(given, labels)
        notes += targets.notes
        notes += check_findings(
            [
                constant_logits(reference, inputs),
                _channel_order(network, inputs, reference, class_ids),
                implausible_labels(reference, class_ids, labels),
            ],
            options.accept,
        )
        for note in notes:
            progress.note(note)
        shrinking = certify_shrinking(
            preprocessing, targets.images, inputs, network, reference, options.gates
        )

        candidates, note = choose_candidates(
            options.engine, options.precision, options.device, len(inputs)
        )
        if note:
            progress.note(note)
        graphs = graphs_of(candidates)
        batches = takes_batches(model.network, network, torch.from_numpy(inputs[[0, -1]]))
        failed_exports = export_all(
            graphs, network, inputs if batches else inputs[:1], calibration, root, progress
        )
        engines, attempts = certify_all(
            candidates,
            failed_exports,
            inputs,
            reference,
            class_ids,
            input_spec=input_spec,
            takes_batches=batches,
            gates=options.gates,
            root=root,
            files=[image.data for image in targets.images],
            preprocessing=preprocessing,
            budget_ms=options.budget_ms,
            measure_seconds=options.measure_seconds,
            progress=progress,
        )
        if not engines:
            raise ImportRefused(f"no engine passed: {_reasons(attempts)}")
        on_gpu = options.device == "cuda"
        accelerator = (accelerator_of(engines[0].kind) or ABSENT_GPU) if on_gpu else None
        record = _record(attempts, options.budget_ms, accelerator, provenance)

        with progress.step("write the artifact"):
            write_labels(root, labels)
            golden_entries = write_golden(root, targets.images, inputs)
            manifest = Manifest(
                schema_version=SCHEMA_VERSION,
                name=options.name,
                num_classes=reference.shape[1],
                architecture=model.architecture,
                input=input_spec,
                preprocessing=entry,
                outputs=Outputs(activation=activation, threshold=options.threshold),
                graphs=keep_graphs(root, graphs),
                takes_batches=batches,
                conformance=conformance_digests(preprocessing),
                golden=golden_entries,
                files=identity_files(root),
            )
            identity = write_manifest(root, manifest)
            evidence = Evidence(
                schema_version=SCHEMA_VERSION,
                identity_sha256=identity,
                reference="torch" if given is None else "given",
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
    proof = what_the_proof_rests_on(
        reference, class_ids, reference_given=given is not None, accepted=options.accept
    )
    return Imported(
        lock=lock,
        known=known,
        manifest=manifest,
        evidence=evidence,
        record=record,
        proof=tuple(proof),
    )


def current_provenance(root: Path) -> Provenance:
    """Return the provenance of the running command; `root` is this program's checkout."""
    return Provenance(
        command=" ".join(sys.argv),
        source_commit=source_commit(root),
        imported_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def source_commit(root: Path) -> str | None:
    """Return the commit of `root`, with "-dirty" where tracked files differ; None outside git."""
    try:
        # Without optional locks: an import that is killed must not leave an index.lock.
        options = ("--always", "--dirty", "--abbrev=40", "--exclude=*")
        described = subprocess.run(  # noqa: S603 (fixed words)
            ["git", "--no-optional-locks", "describe", *options],  # noqa: S607
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def _labels(path: Path | None, model: ModelSource, given: Reference | None) -> LabelFile:
    if path is not None:
        return read_labels(path)
    if given is not None and given.labels is not None:
        note = f"the labels are those of {given.path.name}, as --labels is not given"
        return LabelFile(labels=given.labels, notes=(note,))
    if model.published is None:
        raise ImportRefused(
            "--labels is not given and the weights are not published by torchvision; "
            "expected a file with one name a line, or JSON"
        )
    return LabelFile(labels=model.published.labels)


def _inputs(
    images: tuple[GoldenImage, ...], preprocessing: Preprocessing
) -> npt.NDArray[np.generic]:
    """Return the inputs (n, H, W, C) of the images."""
    inputs = []
    for image in images:
        try:
            inputs.append(to_input(image.data, preprocessing, DecodeLimits()))
        except ImageRejected as error:
            raise ImportRefused(
                f"golden image {image.name}: {error}; remove it or replace it by a sound file"
            ) from error
    return np.stack(inputs)


def _unstable(
    network: PixelsToLogits, inputs: npt.NDArray[np.generic], reference: npt.NDArray[np.float32]
) -> list[Finding | None]:
    """Run some golden inputs again, and together as one batch."""
    some, logits = inputs[:PAIRED_IMAGES], reference[:PAIRED_IMAGES]
    unstable = unstable_reference(logits, run_reference(network, some))
    # What answers differently each time does so in a batch as well.
    return [unstable or batch_dependent(logits, run_batch(network, some))]


def _channel_order(
    network: PixelsToLogits,
    inputs: npt.NDArray[np.generic],
    reference: npt.NDArray[np.float32],
    class_ids: tuple[int | None, ...],
) -> Finding | None:
    """Run golden inputs with their channels reversed, where that may explain wrong answers."""
    rows = rows_to_swap(reference, class_ids) if inputs.shape[3] == 3 else []
    if not rows:
        return None
    swapped = np.full_like(reference, np.nan)
    swapped[rows] = run_reference(network, inputs[rows][..., ::-1])
    return channel_order(reference, swapped, class_ids)


def _reasons(attempts: tuple[EngineAttempt, ...]) -> str:
    """Return the reasons of all attempts; engines with the same reason are named together."""
    engines: dict[str, list[str]] = {}
    for attempt in attempts:
        engines.setdefault(attempt.reason, []).append(attempt.engine)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in engines.items())


def _record(
    attempts: tuple[EngineAttempt, ...],
    budget_ms: float,
    accelerator: str | None,
    provenance: Provenance,
) -> ImportRecord:
    """Describe the import as it happened on this machine, with the plan of the fastest engine."""
    return ImportRecord(
        imported_at=provenance.imported_at,
        command=provenance.command,
        source_commit=provenance.source_commit,
        machine=this_machine(accelerator),
        budget_ms=budget_ms,
        attempts=attempts,
        plan=fastest_plan(attempts, budget_ms),
    )
