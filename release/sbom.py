"""The parts of a bento as a CycloneDX 1.6 document, the same bytes from the same content."""

import json
import uuid
from typing import Any

from image_classifier.artifact.store import ModelLock
from release.locks import Pinned

NAMESPACE = uuid.UUID("5b1f1d5e-6a52-5f0c-9d0b-2f6f8e0f6c11")
"""Of the serial numbers: uuid5 of this and the bento's digest."""


def sbom_bytes(tag: str, digest: str, model: ModelLock, requirements: tuple[Pinned, ...]) -> bytes:
    """Packages of the lock and the model, without a time stamp.

    Args:
        tag: Of the bento, "name:version".
        digest: Of its content.

    Each package lists the digests of all files the lock allows; which of them was installed
    depends on the machine.
    """
    name, _, version = tag.partition(":")
    application = {
        "type": "application",
        "bom-ref": tag,
        "name": name,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
    parts = [_model(model), *(_package(pin) for pin in requirements)]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, digest)}",
        "version": 1,
        "metadata": {"component": application},
        "components": parts,
        "dependencies": [{"ref": tag, "dependsOn": sorted(part["bom-ref"] for part in parts)}],
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
        # Schema 1.6 wants items of `hashes` to differ, which they do: one a file.
        "hashes": [{"alg": "SHA-256", "content": one} for one in pin.sha256],
        **({"properties": properties} if properties else {}),
    }
