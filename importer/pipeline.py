"""An import, from a trained network to an artifact in the store."""

import functools
import gc
import json
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.evidence import Evidence
from image_classifier.artifact.format import (
    BENTOML_NAME,
    EVIDENCE_NAME,
    LABELS_NAME,
    MANIFEST_NAME,
    RECORD_NAME,
    SCHEMA_VERSION,
    file_names,
    sha256_tree,
)
from image_classifier.artifact.manifest import TORCHVISION, Manifest, Outputs
from image_classifier.artifact.record import ImportRecord
from image_classifier.artifact.store import ModelLock, add, staging_dir, tag_of, write_lock
from image_classifier.inference.certificate import GoldenAnswers
from image_classifier.inference.engine import Batch
from image_classifier.inference.engines.load import accelerator_of
from image_classifier.inference.machine import ABSENT_GPU, this_machine, usable_cores
from image_classifier.inference.plan import fastest_plan
from image_classifier.inference.predictions import answered_classes
from importer.candidates import TORCH_GRAPH, choose_candidates, graphs_of
from importer.captured_preprocessing import capture_preprocessing
from importer.certification import GoldenSet, certify_all
from importer.diagnosis import Comparison, explain_difference, unproven_keys
from importer.errors import ImportRefused
from importer.export import export_all
from importer.extreme_images import run_on_extreme_images
from importer.failures import FIXED_BATCH, one_line
from importer.golden_images import (
    GoldenImage,
    decoding_notes,
    read_golden_images,
    transparency_notes,
)
from importer.graphs import OnnxNetwork, refuse_other_range
from importer.labels import LabelFile, check_label_count, read_labels
from importer.network import (
    ARCHITECTURE_FOLDER,
    ModelSource,
    activation_of,
    read_graph,
    read_network,
    takes_batches,
)
from importer.options import ImportOptions, split_published
from importer.pixels_to_logits import PixelsToLogits, run_reference
from importer.plausibility import (
    channel_order,
    check_activation,
    check_findings,
    check_rebuilt,
    check_repeatable,
    constant_logits,
    implausible_labels,
    input_range,
    mean_std_scale,
    normalised_twice,
    unstable_network,
)
from importer.process import uninterrupted
from importer.progress import Progress
from importer.proof import describe_labels, describe_numbers
from importer.reference import Reference, check_label_order, read_reference
from importer.renewal import check_renewed
from importer.shrinking import certify_shrinking
from importer.source_commit import source_commit
from importer.targets import decide_targets
from importer.torchvision_models import torchvision_meta
from importer.writing import (
    installed_versions,
    keep_graphs,
    write_description,
    write_golden,
    write_reference,
)
from preprocessing import DecodeLimits, Preprocessing, conformance_digests, to_input
from preprocessing.errors import FileTooLarge, ImageRejected, ImageTooLarge, PreprocessingBug


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The result of an import.

    Attributes:
        known: Whether the store already had the artifact with the same evidence.
    """

    lock: ModelLock
    known: bool
    manifest: Manifest
    evidence: Evidence
    record: ImportRecord


def import_model(
    options: ImportOptions,
    lock_path: Path | None,
    command: str,
    progress: Progress,
    renewed: Artifact | None = None,
) -> Imported:
    """Import a trained model: read, run the reference, export, certify, measure, store, lock.

    The store and the lock change only at the end, each in one move.

    Args:
        lock_path: The lock to write, or None.
        command: The command line, for the record.
        renewed: The artifact that this import renews. What its import proved stays proven: an
            artifact holds neither the names that its labels were compared with nor all options.

    Raises:
        OperatorError: The model was not imported.
    """
    judge = functools.partial(check_findings, accepted=options.accept, note=progress.note)
    load_average, cores = os.getloadavg()[0], usable_cores()
    if load_average > cores:
        progress.note(
            f"other programs are running (load average {load_average:.1f}, {cores} cores), so "
            "speeds may be measured too low"
        )
    with staging_dir() as root:
        # 1. Read network, preprocessing, labels and golden images. A preprocessing of the user's
        # comes first: its mistakes are found before a large network is read.
        captured = None
        if options.preprocessing is not None:
            captured = capture_preprocessing(options, None, root)
        with progress.step("read the network and its weights"):
            if options.network is None:
                model = read_graph(Path(options.weights), root)
            else:
                model = read_network(options, root)
        preprocessing, entry = captured or capture_preprocessing(options, model.published, root)
        input_spec = preprocessing.input_spec
        if isinstance(model.network, OnnxNetwork):
            refuse_other_range(model.network, input_spec)
        reference = None if options.reference is None else read_reference(options.reference)
        label_file = _labels(options.labels, model, reference)

        with progress.step("read and preprocess the golden images"):
            golden = read_golden_images(
                options.golden,
                options.golden_count,
                options.golden_labels,
                only=reference.by_name.keys() if reference else None,
            )
            images = golden.images
            inputs = _inputs(images, preprocessing)
            notes = [*model.notes, *label_file.notes, *golden.notes]
            notes += decoding_notes(images, preprocessing.decode)
            if entry.spec is None:
                notes += transparency_notes(preprocessing)
                check_repeatable(inputs, lambda row: _inputs((images[row],), preprocessing)[0])
            calibration = inputs
            if options.calibration is not None:
                chosen = read_golden_images(options.calibration, options.calibration_count)
                calibration = _inputs(chosen.images, preprocessing)
        for note in notes:
            progress.note(note)
        mean, std = input_spec.mean, input_spec.std
        judge(
            mean_std_scale(mean, std),
            input_range(inputs),
            normalised_twice(model.network, mean, std),
        )

        # 2. Run the reference, and find what its numbers mean.
        network = PixelsToLogits(model.network, input_spec).eval()
        with progress.step(f"run the reference on {len(images)} golden images"):
            sources = root / ARCHITECTURE_FOLDER
            width = run_reference(network, inputs[:1], sources, finite=False).shape[1]
            if width > 1:  # whether one output may have two labels depends on its activation
                check_label_count(label_file.labels, width, "")
            logits = run_reference(network, inputs, sources)
            pair = inputs[[0, -1]]  # one golden image twice, if there is one only
            batches = takes_batches(model, network, torch.from_numpy(pair))
            extreme = None
            if "odd-images" not in options.accept:
                extreme = run_on_extreme_images(images[0].data, preprocessing, network)
            judge(unstable_network(network, inputs, logits, extreme, takes_batches=batches))
            if "unstable-reference" not in options.accept:
                if model.rebuild is not None:
                    rebuilt = PixelsToLogits(model.rebuild(), input_spec).eval()
                    check_rebuilt(rebuilt, inputs, logits)
                    del rebuilt
                if renewed is not None:
                    check_renewed(renewed, inputs, logits, options.gate_fp32_tolerance)
        pixels = network.pixels(torch.from_numpy(inputs[:1].copy()))
        outputs = Outputs(
            activation=activation_of(model, pixels, options.activation),
            threshold=options.threshold,
        )
        requested = options.activation or model.activation
        judge(check_activation(logits, outputs.activation, requested=requested))
        check_label_count(label_file.labels, width, outputs.activation)
        comparison = None
        if reference is not None:
            tolerance = options.gate_fp32_tolerance
            comparison = Comparison.of(reference, images, logits, outputs, tolerance)
            if comparison.excess(logits) > 1:
                with progress.step("search for the difference from the reference"):
                    raise explain_difference(
                        comparison,
                        network=model.network,
                        preprocessing=entry,
                        input_spec=input_spec,
                        images=images,
                        inputs=inputs,
                    )
            logits = comparison.golden_logits

        # 3. Compare the answers with the labels.
        answers = answered_classes(logits, outputs)
        reference_labels = reference.labels if reference else None
        targets = decide_targets(
            golden,
            label_file.labels,
            answers,
            options.accept,
            trained=tuple(filter(None, (reference_labels, model.classes))),
        )
        labels, class_ids = targets.labels, targets.class_ids
        order_notes = [
            check_label_order(labels, other_labels, source)
            for source, other_labels in (
                (str(options.reference), reference_labels),
                (f"the checkpoint {options.weights}", model.classes),
                ("torchvision's labels", model.published and model.published.labels),
            )
            if other_labels
        ]
        for note in filter(None, (*targets.notes, *order_notes)):
            progress.note(note)
        judge(
            constant_logits(logits, inputs, outputs),
            channel_order(network, inputs, answers, class_ids, outputs),
            implausible_labels(answers, class_ids, labels),
        )
        published = model.published is not None and labels == model.published.labels
        meaning = outputs.in_words(width, labels)
        proof = [
            *describe_labels(targets, answers, order_proven=published or "" in order_notes),
            *describe_numbers(
                comparison,
                images,
                meaning=meaning,
                chosen=published or bool(requested),
                preprocessing=preprocessing,
                unproven=unproven_keys(images, entry) if comparison else (),
            ),
        ]
        before = renewed.record if renewed else None
        if before and before.proof:
            counted = any(class_id is not None for class_id in class_ids)
            proof = [*proof[:counted], *before.proof[counted:]]
        accepted = f"accepted without proof: {', '.join(sorted(options.accept))}"
        if options.accept and accepted not in proof:
            proof.append(accepted)

        # 4. Certify and measure the engines.
        truth = GoldenAnswers(logits=logits, class_ids=class_ids, outputs=outputs)
        shrinking = certify_shrinking(preprocessing, images, inputs, network, truth, options.gates)
        candidates, left_out = choose_candidates(options, len(inputs))
        if left_out:
            progress.note(left_out)
        graphs = graphs_of(candidates)
        failed_exports = export_all(
            graphs, network, pair if batches else inputs[:1], calibration, root, progress
        )
        # Free torch's weights, as each engine holds its own; exporters leave reference cycles.
        model = replace(model, network=torch.nn.Identity())
        del network
        gc.collect()
        engines, attempts = certify_all(
            candidates,
            failed_exports,
            GoldenSet(
                files=[image.data for image in images],
                preprocessing=preprocessing,
                inputs=inputs,
                truth=truth,
                takes_batches=batches,
                extreme=extreme,
            ),
            root,
            options,
            progress,
        )
        if not engines:
            engines_by_reason: dict[str, list[str]] = {}
            for attempt in attempts:
                engines_by_reason.setdefault(attempt.reason, []).append(attempt.engine)
            reasons = [f"{', '.join(names)}: {why}" for why, names in engines_by_reason.items()]
            # These stop torch's own export, too; the first is a branch on the values of an image.
            stops_torch = any(sign in " ".join(reasons) for sign in ("DataDependent", FIXED_BATCH))
            possible = options.engine == "auto" and options.network and TORCH_GRAPH not in graphs
            if possible and not stops_torch:
                reasons.append(
                    "--engine torch takes the network without ONNX, and serves with torch"
                )
            raise ImportRefused(f"no engine passed: {'; '.join(reasons)}")

        # 5. Write the artifact.
        with progress.step("write the artifact"):
            label_list = json.dumps(labels, ensure_ascii=False)
            (root / LABELS_NAME).write_text(f"{label_list}\n", encoding="utf-8")
            golden_entries = write_golden(root, images, class_ids, inputs)
            packages = {entry.package.file for entry in engines if entry.package}
            manifest = Manifest(
                schema_version=SCHEMA_VERSION,
                name=options.name,
                num_classes=width,
                architecture=model.architecture,
                input=input_spec,
                preprocessing=entry,
                outputs=outputs,
                graphs=keep_graphs(root, graphs, packages),
                takes_batches=batches,
                conformance=conformance_digests(preprocessing),
                golden=golden_entries,
                files=sha256_tree(root, file_names(root) - packages),
            )
            identity = write_description(root / MANIFEST_NAME, manifest)
            evidence = Evidence(
                schema_version=SCHEMA_VERSION,
                identity_sha256=identity,
                reference="torch" if reference is None else "given",
                reference_logits_sha256=write_reference(root, logits),
                engines=engines,
                shrinking=shrinking,
                ignored_weights=(renewed.evidence if renewed else model).ignored_weights,
                versions=installed_versions(),
            )
            lock = ModelLock(
                tag=tag_of(options.name, identity),
                manifest_sha256=identity,
                evidence_sha256=write_description(root / EVIDENCE_NAME, evidence),
            )
            gpu = options.device == "cuda"
            accelerator = (accelerator_of(engines[0].kind) or ABSENT_GPU) if gpu else None
            record = ImportRecord(
                imported_at=datetime.now(UTC).replace(microsecond=0),
                command=command,
                first_command=(before.first_command or before.command) if before else None,
                proof=tuple(proof),
                source_commit=source_commit(Path(__file__).parents[1]),
                machine=this_machine(accelerator),
                budget_ms=options.budget_ms,
                attempts=attempts,
                plan=fastest_plan(attempts, options.budget_ms),
            )
            (root / RECORD_NAME).write_bytes(record.to_json())
            with uninterrupted():
                # If the store has this model, the new measurements replace the old ones.
                known = add(root, lock, newer=(RECORD_NAME, BENTOML_NAME))
                if lock_path is not None:
                    write_lock(lock_path, lock)
    return Imported(lock=lock, known=known, manifest=manifest, evidence=evidence, record=record)


def _labels(text: str | None, model: ModelSource, reference: Reference | None) -> LabelFile:
    if text is not None and text.startswith(f"{TORCHVISION}:"):
        return LabelFile(labels=torchvision_meta(*split_published(text)).labels)
    if text is not None:
        return read_labels(Path(text))
    if reference is not None and reference.labels is not None:
        note = f"--labels is not given; using those of {reference.path.name}"
        return LabelFile(labels=reference.labels, notes=(note,))
    if model.published is None:
        raise ImportRefused(
            "--labels is not given and the weights are not published by torchvision; "
            "expected a file with one name per line, or JSON, or torchvision:NAME"
        )
    return LabelFile(labels=model.published.labels)


def _inputs(images: tuple[GoldenImage, ...], preprocessing: Preprocessing) -> Batch:
    """Return the inputs of the images, (n, H, W, C)."""
    inputs: list[Batch] = []
    for image in images:
        try:
            inputs.append(to_input(image.data, preprocessing, DecodeLimits()))
        except ImageRejected as error:
            too_large = isinstance(error, (FileTooLarge, ImageTooLarge))
            raise ImportRefused(
                f"golden image {image.name}: {error}; remove it or replace it by "
                f"{'a smaller one' if too_large else 'an intact file'}"
            ) from error
        except PreprocessingBug as error:
            raise ImportRefused(
                f"preprocessing, on golden image {image.name}: {one_line(error)}; to_input returns "
                "one numpy array (H, W, C): for a tensor .permute(1, 2, 0).numpy(), for a grey "
                "image [..., None], for float64 .astype(np.float32)"
            ) from error
    return np.stack(inputs)
