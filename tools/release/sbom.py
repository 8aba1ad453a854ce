"""The packages and the model of a bento as a CycloneDX 1.6 document."""

import json
import uuid
from typing import Any

from image_classifier.artifact.store import ModelLock
from importer.serving_requirements import Pinned

NAMESPACE = uuid.UUID("5b1f1d5e-6a52-5f0c-9d0b-2f6f8e0f6c11")
"""Namespace of the serial numbers, UUIDs (version 5) of bento digests."""


def sbom_bytes(
    tag: str,
    digest: str,
    model: ModelLock,
    requirements: tuple[Pinned, ...],
    commit: str | None,
) -> bytes:
    """Render the document; equal arguments give equal bytes, without a timestamp.

    Args:
        tag: "name:version" of the bento.
        digest: Digest of its content.
        model: The model it serves.
        requirements: The lock it is installed from. A package lists the digests of all files that
            the lock allows.
        commit: Source of the packed files.
    """
    name, _, version = tag.partition(":")
    application: dict[str, Any] = {
        "type": "application",
        "bom-ref": tag,
        "name": name,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
    if commit:
        application["pedigree"] = {"commits": [{"uid": commit}]}
    components = [_model(model), *(_package(pin) for pin in requirements)]
    references = sorted(component["bom-ref"] for component in components)
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, digest)}",
        "version": 1,
        "metadata": {"component": application},
        "components": components,
        "dependencies": [{"ref": tag, "dependsOn": references}],
    }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _model(model: ModelLock) -> dict[str, Any]:
    name, _, version = model.tag.partition(":")
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{model.tag}",
        "name": name,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": model.manifest_sha256}],
    }


def _package(pin: Pinned) -> dict[str, Any]:
    purl = f"pkg:pypi/{pin.name}@{pin.version}"
    properties = [{"name": "cdx:python:package:marker", "value": pin.marker}] if pin.marker else []
    return {
        "type": "library",
        "bom-ref": purl,
        "name": pin.name,
        "version": pin.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in pin.sha256],
        **({"properties": properties} if properties else {}),
    }
