"""What GET /model shows: the model, its proof, and how this server runs it."""

from typing import Any

from artifact.lock import ModelLock
from artifact.manifest import Manifest
from artifact.opened import Artifact
from artifact.record import Plan


def engine_card(manifest: Manifest, plan: Plan) -> dict[str, Any]:
    """The engine that runs, its certificate, and the plan it runs by."""
    entry = manifest.engine(plan.engine)
    return {
        "name": entry.name,
        "precision": entry.precision,
        "certificate": entry.certificate.model_dump(mode="json"),
        "streams": plan.streams,
        "threads": plan.threads,
        "batch_sizes": list(plan.batch_sizes),
        "solo": plan.solo,
        "image_ms": round(plan.image_ms, 3),
    }


def model_card(
    lock: ModelLock, artifact: Artifact, engine: dict[str, Any], topology: str
) -> dict[str, Any]:
    """The whole card; `engine` as made by `engine_card` in the process that runs it."""
    manifest = artifact.manifest
    return {
        "model": {"tag": lock.tag, "digest": lock.manifest_sha256},
        "name": manifest.name,
        "labels": list(artifact.labels()),
        "architecture": None if manifest.architecture is None else str(manifest.architecture),
        "preprocessing": manifest.preprocessing.model_dump(mode="json"),
        "golden_samples": len(manifest.golden),
        "reference": manifest.reference,
        "versions": manifest.versions,
        "engine": engine,
        "topology": topology,
        "slo": None if artifact.slo is None else artifact.slo.model_dump(mode="json"),
    }
