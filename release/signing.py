"""Key pairs and signatures of artifacts, in the format of OpenSSF model-signing 1.1."""

import base64
import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.format import SIGNATURE_NAME, UNPINNED, sha256_bytes
from image_classifier.artifact.signature import (
    HASHES,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    pre_authentication,
)
from image_classifier.artifact.store import ModelLock
from release.errors import ReleaseError

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def make_key_pair(private: Path) -> Path:
    """Write a new P-256 key, readable by its owner alone, and its public key beside it.

    Returns:
        Path of the public key.

    Raises:
        ReleaseError: One of the files is there already.
    """
    public = private.with_suffix(".pub")
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for path, data, mode in ((private, secret, 0o600), (public, _public_pem(key), 0o644)):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise ReleaseError(
                f"{path}: {error.strerror}; expected a new file in a directory that exists"
            ) from error
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    return public


def sign_artifact(folder: Path, lock: ModelLock, private: Path) -> Path:
    """Verify an artifact and write its signature beside its manifest.

    Returns:
        Path of the signature.

    Raises:
        ArtifactError: The artifact is damaged.
        ReleaseError: The key cannot be used.
    """
    artifact = open_artifact(folder, lock.manifest_sha256, lock.evidence_sha256)
    try:
        key = load_pem_private_key(private.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ReleaseError(f"{private}: not a readable PEM key without a password") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in HASHES:
        raise ReleaseError(f"{private}: not a private key on {', '.join(HASHES)}")
    path = folder / SIGNATURE_NAME
    draft = path.with_name(f"{SIGNATURE_NAME}.{os.getpid()}.tmp")
    draft.write_bytes(_bundle(_statement(artifact, lock.tag), key))
    draft.replace(path)
    return path


def _statement(artifact: Artifact, name: str) -> bytes:
    files = artifact.pinned_files()
    digests = [files[one] for one in sorted(files)]
    root = sha256_bytes(b"".join(bytes.fromhex(digest) for digest in digests))
    value = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": sorted(UNPINNED),
            },
            "resources": [
                {"name": one, "algorithm": "sha256", "digest": files[one]} for one in sorted(files)
            ],
        },
    }
    return json.dumps(value).encode()


def _bundle(payload: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    signature = key.sign(pre_authentication(payload), ec.ECDSA(HASHES[key.curve.name]))
    value = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": sha256_bytes(_public_pem(key))},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(value, indent=2).encode() + b"\n"


def _public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
