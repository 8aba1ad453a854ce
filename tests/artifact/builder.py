"""A small artifact written by hand, independent of the importer."""

import hashlib
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from image_classifier.artifact.evidence import Evidence
from image_classifier.artifact.manifest import Manifest
from image_classifier.artifact.record import (
    EngineAttempt,
    ImportRecord,
    LatencyPoint,
    Machine,
    Plan,
    SloCertificate,
)

MACHINE = Machine(cpu="one", cores=2, features=("avx2",), accelerator=None)
SLO = SloCertificate(
    measured_at="2026-01-01T00:00:00+00:00",
    commit="0123456789",
    machine=MACHINE,
    images="golden",
    image_count=2,
    topology="embedded",
    settings={"CLASSIFIER_BUDGET_MS": "50"},
    plan=Plan(engine="openvino-fp32", streams=2, threads=2, batch_sizes=(1,), service_time_ms=7.0),
    budget_ms=50,
    highest_rate_per_s=100,
    first_failed_rate_per_s=104,
    p50_ms=12.5,
    p99_ms=48.0,
    saturated_per_s=130,
    ready_s=2.5,
    rule="bisection",
)

RECORD = ImportRecord(
    imported_at=datetime(2026, 1, 1, tzinfo=UTC),
    command="model_import.py --name insects",
    source_commit=None,
    machine=MACHINE,
    budget_ms=50,
    attempts=(
        EngineAttempt(
            engine="openvino-fp32",
            verdict="passed",
            curve=(
                LatencyPoint(batch_size=1, streams=1, threads=2, latency_ms=3.5, images_per_s=280),
            ),
        ),
        EngineAttempt(engine="openvino-int8", verdict="failed", reason="too far off"),
    ),
    plan=Plan(engine="openvino-fp32", streams=1, threads=2, batch_sizes=(1,), service_time_ms=3.5),
)

OWN = b"""from preprocessing import DecodeRules


class Own:
    decode = DecodeRules()
    input_shape = (1, 1, 3)
    input_dtype = "uint8"
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def to_input(self, image):
        import numpy as np

        return np.array(image)[:1, :1]
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def contents() -> dict[str, bytes]:
    """Return the files of the artifact except manifest and evidence."""
    return {
        "labels.json": b'["ant", "bee"]\n',
        "weights.safetensors": b"not opened when serving",
        "engines/network.onnx": b"a graph",
        "golden/0000.png": b"first picture",
        "golden/0001.jpg": b"second picture",
        "golden/logits.npy": npy(np.array([[1, 2], [3, 4]], np.float32)),
        "preprocessing/own/own.py": OWN,
    }


def manifest_of(files: dict[str, bytes]) -> dict[str, Any]:
    """Return the manifest as a plain value, for tests to change."""
    golden = [("golden/0000.png", "ant.png", 0), ("golden/0001.jpg", "who knows.jpg", None)]
    return {
        "schema_version": 2,
        "name": "insects",
        "num_classes": 2,
        "architecture": {"torchvision": "resnet18", "kwargs": {"num_classes": 2}},
        "preprocessing": {
            "file": "preprocessing/own/own.py",
            "class_name": "Own",
            "decode": {},
        },
        "input": {
            "shape": [1, 1, 3],
            "dtype": "uint8",
            "mean": [0.0, 0.0, 0.0],
            "std": [1.0, 1.0, 1.0],
        },
        "outputs": {"activation": "softmax", "threshold": None},
        "graphs": [{"file": "engines/network.onnx", "format": "onnx", "precision": "fp32"}],
        "conformance": {"decode/png": "0" * 64},
        "golden": [
            {"file": file, "name": name, "class_id": class_id, "input_sha256": "0" * 64}
            for file, name, class_id in golden
        ],
        "files": {
            name: sha256(data) for name, data in files.items() if name != "golden/logits.npy"
        },
    }


def evidence_of(files: dict[str, bytes], manifest_sha256: str) -> dict[str, Any]:
    """Return the evidence as a plain value."""
    certificate = {
        "samples": 2,
        "max_logit_difference": 0.0,
        "tolerance": 0.001,
        "top1_agreement": 1.0,
        "required_agreement": 1.0,
        "accuracy": 0.5,
        "reference_accuracy": 0.5,
        "max_accuracy_loss": None,
    }
    engine = {"kind": "openvino", "precision": "fp32", "file": "engines/network.onnx"}
    return {
        "schema_version": 2,
        "identity_sha256": manifest_sha256,
        "reference": "torch",
        "reference_logits_sha256": sha256(files["golden/logits.npy"]),
        "engines": [{**engine, "certificate": certificate}],
        "shrinking": None,
        "versions": {"numpy": "2"},
    }


def parsed(value: dict[str, Any]) -> Manifest:
    return Manifest.model_validate_json(json.dumps(value))


def write_artifact(root: Path, files: dict[str, bytes] | None = None) -> str:
    """Write the artifact to `root`; return the digest of its manifest."""
    files = contents() if files is None else files
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    data = parsed(manifest_of(files)).to_json()
    (root / "manifest.json").write_bytes(data)
    evidence = Evidence.model_validate_json(json.dumps(evidence_of(files, sha256(data))))
    (root / "evidence.json").write_bytes(evidence.to_json())
    (root / "record.json").write_bytes(RECORD.to_json())
    return sha256(data)
