"""The options that import an artifact again from its own files."""

import csv
import json
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.format import (
    LABELS_NAME,
    SERVING_REQUIREMENTS_NAME,
    WEIGHTS_NAME,
    sha256_bytes,
)
from image_classifier.inference.certificate import logit_scale
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.predictions import answered_classes
from image_classifier.inference.startup import gates_of
from importer.errors import ImportRefused
from importer.network import ARCHITECTURE_FOLDER, ORIGINAL_FOLDER
from importer.options import PRECISIONS, EngineOptions, ImportOptions, mistakes_of


def renewed_options(artifact: Artifact, folder: Path, changes: EngineOptions) -> ImportOptions:
    """Return the options of an import that makes the same artifact again.

    Args:
        artifact: The artifact to renew, with all files verified.
        folder: An empty directory for files that the artifact stores in another form: golden
            images under their own names, a table of classes, a spec, a reference.
        changes: Options that replace those of the import.

    Raises:
        ImportRefused: The artifact and the changes do not fit together.
    """
    manifest, entry = artifact.manifest, artifact.manifest.preprocessing
    preprocessing = f"{artifact.root / str(entry.file)}:{entry.class_name}"
    if entry.spec is not None:
        preprocessing = str(folder / "spec.json")
        (folder / "spec.json").write_text(entry.spec.model_dump_json())
    values: dict[str, object] = {
        "name": manifest.name,
        **_network(artifact),
        "preprocessing": preprocessing,
        "labels": str(artifact.path_of(LABELS_NAME)),
        "activation": manifest.outputs.activation,
        "threshold": manifest.outputs.threshold,
        **_golden(artifact, folder / "golden"),
        "golden_count": max(2, len(manifest.golden)),
        **_engines(artifact, changes),
    }
    if SERVING_REQUIREMENTS_NAME in manifest.files:
        values["serving_requirements"] = artifact.path_of(SERVING_REQUIREMENTS_NAME)
    values |= changes.model_dump(exclude_unset=True)
    if artifact.evidence.reference == "given":
        values["reference"] = folder / "reference.npz"
        names = [entry.name for entry in manifest.golden]
        logits, labels = artifact.reference()[0], artifact.labels()
        np.savez(folder / "reference.npz", files=names, logits=logits, labels=labels)
    try:
        return ImportOptions.model_validate(values)
    except ValidationError as error:
        raise ImportRefused("; ".join(mistakes_of(error, ImportOptions))) from error


def check_renewed(artifact: Artifact, inputs: Batch, logits: Logits, tolerance: float) -> None:
    """Check that the network of an artifact answers as it did at the first import.

    Images that another version of Pillow decodes differently are not compared.

    Args:
        artifact: The artifact to renew.
        inputs: Its golden inputs, made again.
        logits: Its network's for them.
        tolerance: Allowed difference, as a factor of `logit_scale`.

    Raises:
        ImportRefused: Logits of the same inputs differ.
    """
    golden, before = artifact.manifest.golden, artifact.reference()[0]
    same = [
        sha256_bytes(item.tobytes()) == entry.input_sha256
        for item, entry in zip(inputs, golden, strict=True)
    ]
    differences = np.abs(logits - before)
    if (differences > tolerance * logit_scale(before))[same].any():
        raise ImportRefused(
            f"{artifact.manifest.name}: the network answers differently than at the first import: "
            f"logits of the same inputs differ by up to {differences[same].max():.3g}; likely "
            "cause: a module changes its weights when it loads them (_load_from_state_dict), or a "
            "package that it imports changed; import it again from the original checkpoint"
        )


def compare_references(before: Logits, renewed: Artifact) -> str:
    """Return a sentence that compares an artifact's reference logits with its renewal's."""
    after, outputs = renewed.reference()[0], renewed.manifest.outputs
    same = int((answered_classes(before, outputs) == answered_classes(after, outputs)).sum())
    difference = float(np.abs(before - after).max())
    return (
        f"the reference answers {same} of {len(before)} golden images as before; logits differ by "
        f"at most {difference:.2g}"
    )


def _network(artifact: Artifact) -> dict[str, object]:
    architecture = artifact.manifest.architecture
    if architecture is None:
        graphs = artifact.path_of(ORIGINAL_FOLDER).glob("network.*")
        return {"weights": str(min(path for path in graphs if path.suffix in (".onnx", ".pt")))}
    network = f"torchvision:{architecture.torchvision}"
    if architecture.file is not None:
        source = artifact.path_of(ARCHITECTURE_FOLDER) / architecture.file
        network = f"{source}:{architecture.builder}"
    return {
        "network": network,
        "network_kwargs": json.dumps(architecture.kwargs),
        "weights": str(artifact.path_of(WEIGHTS_NAME)),
    }


def _golden(artifact: Artifact, folder: Path) -> dict[str, object]:
    """Write the golden images under their original names."""
    folder.mkdir()
    rows = []
    for entry in artifact.manifest.golden:
        path = (folder / entry.name).resolve()
        if not path.is_relative_to(folder.resolve()) or path.exists():
            raise ImportRefused(f"golden sample {entry.name!r}: its name leaves the folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(artifact.path_of(entry.file).read_bytes())
        if entry.class_id is not None:
            rows.append((entry.name, entry.class_id))
    if not rows:
        return {"golden": folder}
    table = folder.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "class_index"), *rows])
    return {"golden": folder, "golden_labels": table}


def _engines(artifact: Artifact, changes: EngineOptions) -> dict[str, object]:
    """Return the engine options of the import, as far as evidence and record show them.

    Another device has other engines, so engine and precision are not kept for it.
    """
    values: dict[str, object] = {}
    for entry in artifact.evidence.engines:
        gates = gates_of(entry)
        if entry.precision == "fp32":
            values["gate_fp32_tolerance"] = gates.fp32_tolerance
        else:
            values["gate_agreement"] = gates.min_agreement
            values["gate_accuracy_loss"] = gates.max_accuracy_loss
    record = artifact.record
    values["budget_ms"] = record.budget_ms
    values["device"] = "cuda" if record.for_gpu else "cpu"
    if changes.device != values["device"] and "device" in changes.model_fields_set:
        return values
    tried = [attempt.engine.rpartition("-") for attempt in record.attempts]
    kinds, precisions = {row[0] for row in tried} & PRECISIONS.keys(), {row[2] for row in tried}
    values["engine"] = kinds.pop() if len(kinds) == 1 else "auto"
    values["precision"] = precisions.pop() if len(precisions) == 1 else "auto"
    return values
