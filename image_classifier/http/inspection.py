"""The page's view of the loaded artifact, as JSON: files, certificates, environment."""

import asyncio
import base64
import io
import json
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.format import (
    EVIDENCE_NAME,
    LABELS_NAME,
    MANIFEST_NAME,
    SIGNATURE_NAME,
    WEIGHTS_NAME,
    file_names,
    sha256_file,
)
from image_classifier.artifact.record import Machine, Plan
from image_classifier.inference.certificate import GoldenAnswers, certify
from image_classifier.inference.classifier import Classifier
from image_classifier.inference.machine import this_machine
from image_classifier.inference.predictions import answered_classes
from image_classifier.inference.runner import RunnerDescription
from image_classifier.inference.startup import gates_of
from preprocessing import DecodeLimits, Preprocessing, Step, trace

PROGRAM = Path(__file__).resolve().parents[2]
"""The folder of service.py: a checkout, or `src` of a bento."""
SHOWN_SIDE = 480
"""Longer side, in pixels, of the pictures of steps; larger images are reduced."""
SHOWN_SOURCE_BYTES = 200_000
PACKAGES = (
    *("bentoml", "fastapi", "uvicorn", "httptools", "pydantic", "numpy", "pillow"),
    *("openvino", "onnxruntime", "torch"),
)

Json = dict[str, Any]


def describe(artifact: Artifact, tag: str, running: RunnerDescription, *, verified: bool) -> Json:
    """Return everything the inspector shows.

    Args:
        running: How the network runs.
        verified: Whether the signature was verified at the start.
    """
    plan, here = running.plan, this_machine(running.accelerator)
    manifest, evidence, record = artifact.manifest, artifact.evidence, artifact.record
    signed = artifact.path_of(SIGNATURE_NAME).is_file()
    signature = "verified" if verified else "present" if signed else "none"
    labels = artifact.labels()
    return {
        "tag": tag,
        "manifest_sha256": artifact.digest,
        "evidence_sha256": artifact.evidence_digest,
        "signature": signature,
        "schema_version": manifest.schema_version,
        "architecture": None if manifest.architecture is None else str(manifest.architecture),
        "labels": labels,
        "files": list(_files(artifact)),
        "tensors": list(_tensors(artifact)),
        "sources": list(_sources(artifact)),
        "engines": list(_engines(artifact, plan)),
        "plan": plan.model_dump(mode="json"),
        "conformance": manifest.conformance,
        "golden": [
            {
                "name": entry.name,
                "label": None if entry.class_id is None else labels[entry.class_id],
            }
            for entry in manifest.golden
        ],
        "imported": record.model_dump(mode="json", exclude={"attempts", "plan"}),
        "proof": list(_statements(artifact, plan, signature, here)),
        "environment": _environment(here, evidence.versions),
    }


def _files(artifact: Artifact) -> Iterator[Json]:
    """Describe every file, and name the document that pins its digest."""
    pinned = artifact.pinned_files()
    pinned_by = {
        **dict.fromkeys(pinned, "evidence"),
        **dict.fromkeys(artifact.manifest.files, "manifest"),
        **dict.fromkeys((MANIFEST_NAME, EVIDENCE_NAME), "model.lock"),
    }
    for name in sorted(file_names(artifact.root)):
        yield {
            "name": name,
            "size_bytes": artifact.path_of(name).stat().st_size,
            "sha256": pinned.get(name),
            "pinned_by": pinned_by.get(name, "nothing"),
        }


def _tensors(artifact: Artifact) -> Iterator[Json]:
    """Describe the tensors of the weights, from the header of their file."""
    if WEIGHTS_NAME in artifact.manifest.files:
        with artifact.path_of(WEIGHTS_NAME).open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            yield {"name": name, "dtype": entry["dtype"], "shape": entry["shape"]}


def _sources(artifact: Artifact) -> Iterator[Json]:
    """Return the texts that define the preprocessing and the network."""
    spec = artifact.manifest.preprocessing.model_dump(mode="json", exclude_none=True)
    yield {"name": "preprocessing.json", "text": json.dumps(spec, indent=2)}
    for name in sorted(artifact.manifest.files):
        path = artifact.path_of(name)
        shown = name.endswith((".py", ".json")) and name != LABELS_NAME
        if shown and path.stat().st_size <= SHOWN_SOURCE_BYTES:
            yield {"name": name, "text": path.read_text("utf-8", errors="replace")}


def _engines(artifact: Artifact, plan: Plan) -> Iterator[Json]:
    """Describe each engine: its verdict at import, its certificate, and whether it serves."""
    certificates = {entry.name: entry.certificate for entry in artifact.evidence.engines}
    for attempt in artifact.record.attempts:
        certificate = certificates.get(attempt.engine, attempt.certificate)
        yield {
            "attempt": attempt.model_dump(mode="json", exclude={"certificate"}),
            "certificate": certificate and certificate.model_dump(mode="json"),
            "serves": attempt.engine == plan.engine,
        }


def _statements(artifact: Artifact, plan: Plan, signature: str, here: Machine) -> Iterator[Json]:
    """State what manifest, evidence and record prove about the running engine, and what not.

    The page has a text for each code in every language.
    """

    def statement(code: str, proven: bool, **values: str | float) -> Json:
        return {"code": code, "proven": proven, "values": values}

    manifest, evidence, record = artifact.manifest, artifact.evidence, artifact.record
    certificate = evidence.engine(plan.engine).certificate
    samples = len(manifest.golden)
    labelled = sum(sample.class_id is not None for sample in manifest.golden)
    if labelled and certificate.reference_accuracy is not None:
        right = round(certificate.reference_accuracy * labelled)
        yield statement("labelled", True, right=right, images=labelled)
    else:
        yield statement("unlabelled", False)
    from_notebook = evidence.reference == "given"
    code = "notebook" if from_notebook else "no_notebook"
    yield statement(code, from_notebook, samples=samples)
    yield statement(
        "engine_agrees" if certificate.tolerance is None else "engine_equal",
        True,
        engine=plan.engine,
        samples=certificate.samples,
        difference=certificate.max_logit_difference,
        agreement=certificate.agreement,
        required=certificate.required_agreement,
        tolerance=certificate.tolerance or 0,
    )
    if evidence.shrinking is not None:
        yield statement("shrinking", True, agreement=evidence.shrinking.agreement)
    yield statement("preprocessing", True, cases=len(manifest.conformance), samples=samples)
    yield statement(f"signature_{signature}", signature == "verified")
    same = record.machine == here
    yield statement("same_machine" if same else "other_machine", same, cpu=record.machine.cpu)
    if artifact.slo is None:
        yield statement("no_rate", False)
    else:
        rate, budget_ms = artifact.slo.highest_rate_per_s, artifact.slo.budget_ms
        machine = artifact.slo.machine
        yield statement("rate", machine == here, rate=rate, budget=budget_ms, cpu=machine.cpu)


def _environment(here: Machine, at_import: dict[str, str]) -> Json:
    packages = {}
    for name in (*PACKAGES, *at_import):
        with suppress(PackageNotFoundError):  # not installed here, or not a package
            packages[name] = version(name)
    # A bento has one lock; a checkout has several, and the first is that for CPUs.
    lock = min((PROGRAM / "deploy" / "requirements").glob("serve-*.txt"), default=None)
    built = PROGRAM.parent / "bento.yaml"
    text = built.read_text("utf-8") if PROGRAM.name == "src" and built.is_file() else None
    fields = dict(re.findall(r"(?m)^(name|version): (\S+)$", text or ""))
    return {
        "python": sys.version.partition(" ")[0],
        "platform": platform.platform(),
        "machine": here.model_dump(mode="json"),
        "packages": packages,
        "packages_at_import": at_import,
        "requirements_sha256": sha256_file(lock) if lock else None,
        "bento": "{name}:{version}".format_map(fields) if len(fields) == 2 else None,
        "bento_record": text,
    }


def describe_steps(data: bytes, preprocessing: Preprocessing, limits: DecodeLimits) -> list[Json]:
    """Describe each step of the preprocessing of a file, with its picture as a PNG in base64.

    The last step is the network's input, rescaled to [0, 255].

    Raises:
        ImageRejected, PreprocessingBug: As for `trace`.
    """
    steps = [*trace(data, preprocessing, limits)]
    spec = preprocessing.input_spec
    if spec.mean is not None and spec.std is not None:
        pixels = np.asarray(steps[-1].array) / 255
        normalised = (pixels - np.array(spec.mean)) / np.array(spec.std)
        steps.append(Step("normalise", None, "float32", None, normalised))
    return [_card(step) for step in steps]


def _card(step: Step) -> Json:
    picture = step.picture
    values = np.asarray(picture) if step.array is None else step.array
    low, high = float(values.min()), float(values.max())
    if picture is None:
        scaled = (values.astype(np.float64) - low) / (high - low or 1) * 255
        shown = scaled if scaled.shape[2] == 3 else scaled[:, :, 0]
        picture = Image.fromarray(shown.astype(np.uint8))
    small = picture.convert("RGBA" if "A" in picture.mode or step.mode == "P" else "RGB")
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    file = io.BytesIO()
    small.save(file, "PNG")
    return {
        "name": step.name,
        "width": values.shape[1],
        "height": values.shape[0],
        "mode": step.mode,
        "minimum": low,
        "maximum": high,
        "milliseconds": step.milliseconds,
        "picture": base64.b64encode(file.getvalue()).decode(),
    }


async def check_sample(artifact: Artifact, classifier: Classifier, index: int) -> Json:
    """Classify a golden sample as a request would and compare its logits with the reference."""
    entry = artifact.manifest.golden[index]
    plan = (await classifier.runner.describe()).plan
    engine = artifact.evidence.engine(plan.engine)
    data = await asyncio.to_thread(artifact.path_of(entry.file).read_bytes)
    reference = (await asyncio.to_thread(artifact.reference))[0][index : index + 1]
    start = time.perf_counter()
    answer = await classifier.classify(data, 1)
    elapsed_ms = (time.perf_counter() - start) * 1e3
    served = answer.logits[np.newaxis]
    outputs, labels = artifact.manifest.outputs, artifact.labels()
    truth = GoldenAnswers(logits=reference, class_ids=(None,), outputs=outputs)
    _, failure = certify(served, truth, engine.precision, gates_of(engine))

    def label(logits: npt.NDArray[np.float32]) -> str:
        (class_id,) = answered_classes(logits, outputs)
        return labels[class_id if len(labels) > 1 else 0]

    return {
        "name": entry.name,
        "expected": label(reference),
        "served": label(served),
        "max_logit_difference": float(np.abs(served - reference).max()),
        "passed": not failure,
        "milliseconds": elapsed_ms,
    }
