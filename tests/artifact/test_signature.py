"""Signatures made by model-signing: the key and the signed files must be right."""

import base64
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.store import lock_of
from image_classifier.inference.startup import open_for_serving
from tests.artifact.builder import RECORD, contents, write_artifact
from tests.imports import ROOT
from tests.programs import run_program

Envelope = dict[str, Any]


def make_key(private: Path) -> Path:
    """Write a P-256 key, and its public key beside it; return the path of the public one."""
    key = ec.generate_private_key(ec.SECP256R1())
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = private.with_suffix(".pub")
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return public


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an artifact signed as docs/deploy.md says, model.pem and model.pub."""
    folder = tmp_path_factory.mktemp("signed")
    write_artifact(folder / "artifact")
    make_key(folder / "model.pem")
    text = (ROOT / "docs" / "deploy.md").read_text().replace("\\\n", " ")
    command = re.search(r"model_signing (sign key .*)", text)
    assert command
    arguments = shlex.split(command[1].replace("$MODEL", str(folder / "artifact")))
    done = run_program(sys.executable, "-m", "model_signing", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def signed(documented: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return a signed artifact and its public key; the private key is model.pem beside it."""
    shutil.copytree(documented, tmp_path, dirs_exist_ok=True)
    return tmp_path / "artifact", tmp_path / "model.pub"


def open_signed(root: Path, public: Path | None) -> None:
    lock = lock_of(open_artifact(root))
    digests = lock.manifest_sha256, lock.evidence_sha256
    open_for_serving(root, *digests, public_key=str(public) if public else None, graphs=False)


def change_signature(root: Path, change: Callable[[Envelope], object]) -> None:
    bundle = json.loads((root / "model.sig").read_bytes())
    change(bundle["dsseEnvelope"])
    (root / "model.sig").write_text(json.dumps(bundle))


def test_an_artifact_signed_by_the_documented_command_opens(signed: tuple[Path, Path]) -> None:
    root, public = signed
    record = RECORD.model_copy(update={"command": "not part of what is signed"})
    (root / "record.json").write_bytes(record.to_json())
    open_signed(root, public)


def test_a_missing_signature_is_refused_only_if_a_key_is_set(signed: tuple[Path, Path]) -> None:
    root, public = signed
    (root / "model.sig").unlink()

    open_signed(root, None)
    with pytest.raises(ArtifactError, match=r"model\.sig: No such file.*CLASSIFIER_PUBLIC_KEY"):
        open_signed(root, public)


def test_another_key_or_other_files_are_refused(signed: tuple[Path, Path], tmp_path: Path) -> None:
    root, public = signed
    with pytest.raises(ArtifactError, match="not made with the key of CLASSIFIER_PUBLIC_KEY"):
        open_signed(root, make_key(tmp_path / "other.pem"))
    write_artifact(root, {**contents(), "labels.json": b'["bee", "ant"]\n'})

    with pytest.raises(ArtifactError, match=r"of other files: changed: evidence\.json"):
        open_signed(root, public)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda e: e.update(payload="AAAA"), "not made with the key", id="payload"),
        pytest.param(lambda e: e.update(signatures=[]), "not a model signature", id="unsigned"),
        pytest.param(lambda e: e.pop("payload"), "not a model signature", id="no-payload"),
        pytest.param(lambda e: e.update(payload="%"), "not a model signature", id="not-base64"),
    ],
)
def test_a_changed_signature_is_refused(
    signed: tuple[Path, Path], change: Callable[[Envelope], object], message: str
) -> None:
    root, public = signed
    change_signature(root, change)

    with pytest.raises(ArtifactError, match=message):
        open_signed(root, public)


@pytest.mark.parametrize("kind", ["https://model_signing/signature/v1.0", "https://example.org/x"])
def test_a_signed_statement_is_accepted_only_if_it_is_a_model_signature(
    signed: tuple[Path, Path], kind: str
) -> None:
    # Signed by hand as DSSE 1.0 specifies; 28 is the length of the payload type.
    root, public = signed
    key = load_pem_private_key(public.with_suffix(".pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)

    def sign_anew(envelope: Envelope) -> None:
        statement = json.loads(base64.b64decode(envelope["payload"]))
        payload = json.dumps({**statement, "predicateType": kind}).encode()
        message = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
        envelope["payload"] = base64.b64encode(payload).decode()
        signature = key.sign(message, ec.ECDSA(SHA256()))
        envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()

    change_signature(root, sign_anew)

    if "model_signing" in kind:
        open_signed(root, public)
    else:
        with pytest.raises(ArtifactError, match="not a model signature of version 1"):
            open_signed(root, public)


def test_an_unreadable_public_key_is_reported_with_its_path(
    signed: tuple[Path, Path], tmp_path: Path
) -> None:
    key = tmp_path / "bad.pub"
    key.write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n")

    with pytest.raises(ArtifactError, match=r"bad\.pub: not a readable PEM public key"):
        open_signed(signed[0], key)
