"""The OpenSSF model signature of an artifact, verified offline with a public key.

`model_signing sign key` (model-signing 1.1) writes it: a Sigstore bundle whose DSSE envelope holds
an in-toto statement with the sha256 of each file. Serving does not use model-signing itself,
which brings 20 packages for keyless signing.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from image_classifier.artifact.format import ArtifactError, describe_differences

PAYLOAD_TYPE = b"application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
"""Digest that the specification prescribes for each curve."""


def verify_signature(path: Path, files: Mapping[str, str], public_key: Path) -> None:
    """Verify that the owner of a key signed exactly the files of an artifact.

    Args:
        path: The signature, model.sig.
        files: sha256 of each file of the opened artifact, by name; see `Artifact.pinned_files`.
        public_key: PEM file of an elliptic-curve key.

    Raises:
        ArtifactError: The signature is missing, or made with another key or of other files.
    """
    key = _load_key(public_key)
    try:
        bundle = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{path}: {error.strerror}; CLASSIFIER_PUBLIC_KEY is set, expected a signed model; "
            "sign it (docs/deploy.md, Signed models) or unset the key"
        ) from error
    signed = _signed_files(bundle, key, path)
    if differences := describe_differences(signed, files):
        raise ArtifactError(
            f"{path}: the signature is of other files: {differences}; "
            "fetch the model again or sign this one"
        )


def _load_key(path: Path) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not a readable PEM public key; correct or unset CLASSIFIER_PUBLIC_KEY"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in HASHES:
        raise ArtifactError(
            f"{path}: not a key on {', '.join(HASHES)}; make one as docs/deploy.md says"
        )
    return key


def _signed_files(bundle: bytes, key: ec.EllipticCurvePublicKey, path: Path) -> dict[str, str]:
    """Verify the signature of a bundle, then return the sha256 of each signed file."""
    try:
        envelope = json.loads(bundle)["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        # The signed bytes are the "pre-authentication encoding" of DSSE.
        prefix = b"DSSEv1 %d %s %d " % (len(PAYLOAD_TYPE), PAYLOAD_TYPE, len(payload))
        key.verify(signature, prefix + payload, ec.ECDSA(HASHES[key.curve.name]))
        statement = json.loads(payload)
        kinds = statement["_type"], statement["predicateType"]
        resources = statement["predicate"]["resources"]
        signed = {str(item["name"]): str(item["digest"]) for item in resources}
    except InvalidSignature as error:
        raise ArtifactError(
            f"{path}: the signature was not made with the key of CLASSIFIER_PUBLIC_KEY; "
            "fetch the model again or correct the key"
        ) from error
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path}: not a model signature; sign the model again") from error
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise ArtifactError(
            f"{path}: not a model signature of version 1.0; sign it with model-signing 1"
        )
    return signed
