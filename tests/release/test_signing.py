"""Signatures of an artifact: whose they are, of which bytes, and that a start asks for them."""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.store import lock_of
from image_classifier.inference.startup import open_for_serving
from release.errors import ReleaseError
from release.signing import make_key_pair, sign_artifact
from tests.artifact.builder import contents, write_artifact


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Path]:
    """A signed artifact, and the public key."""
    root = tmp_path / "artifact"
    write_artifact(root)
    public = make_key_pair(tmp_path / "key.pem")
    sign_artifact(root, lock_of(open_artifact(root)), tmp_path / "key.pem")
    return root, public


def open_signed(root: Path, public: Path) -> None:
    lock = lock_of(open_artifact(root))
    open_for_serving(
        root, lock.manifest_sha256, lock.evidence_sha256, public_key=str(public), graphs=False
    )


def test_a_signed_artifact_opens(signed: tuple[Path, Path]) -> None:
    open_signed(*signed)


def test_the_signed_bytes_are_those_of_the_specification(signed: tuple[Path, Path]) -> None:
    # Computed here from the text of DSSE 1.0 and checked with the other half of the key.
    root, public = signed
    envelope = json.loads((root / "model.sig").read_bytes())["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    message = b"DSSEv1 28 application/vnd.in-toto+json " + str(len(payload)).encode()
    private = load_pem_private_key(public.with_suffix(".pem").read_bytes(), None)

    assert isinstance(private, ec.EllipticCurvePrivateKey)
    from cryptography.hazmat.primitives.hashes import SHA256

    private.public_key().verify(
        base64.b64decode(envelope["signatures"][0]["sig"]),
        message + b" " + payload,
        ec.ECDSA(SHA256()),
    )
    names = {one["name"] for one in json.loads(payload)["predicate"]["resources"]}
    assert names == contents().keys() | {"manifest.json", "evidence.json"}


def test_a_missing_signature_refuses_only_where_a_key_is_set(signed: tuple[Path, Path]) -> None:
    root, public = signed
    (root / "model.sig").unlink()
    lock = lock_of(open_artifact(root))

    open_for_serving(
        root, lock.manifest_sha256, lock.evidence_sha256, public_key=None, graphs=False
    )
    with pytest.raises(ArtifactError, match=r"model\.sig: No such file.*CLASSIFIER_PUBLIC_KEY"):
        open_signed(root, public)


def test_the_signature_of_another_key_is_refused(signed: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_key_pair(tmp_path / "other.pem")

    with pytest.raises(ArtifactError, match="not one of CLASSIFIER_PUBLIC_KEY"):
        open_signed(signed[0], other)


def test_an_artifact_made_anew_with_right_digests_is_refused(signed: tuple[Path, Path]) -> None:
    root, public = signed
    write_artifact(root, {**contents(), "labels.json": b'["bee", "ant"]\n'})

    with pytest.raises(ArtifactError, match=r"of other files: changed: labels\.json"):
        open_signed(root, public)


Envelope = dict[str, Any]


def flip_payload(envelope: Envelope) -> None:
    payload = base64.b64decode(envelope["payload"])
    envelope["payload"] = base64.b64encode(payload.replace(b"insects", b"Insects")).decode()


def drop_signatures(envelope: Envelope) -> None:
    envelope["signatures"] = []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(flip_payload, "not one of CLASSIFIER_PUBLIC_KEY", id="payload"),
        pytest.param(drop_signatures, "not a model signature", id="no-signature"),
        pytest.param(lambda e: e.pop("payload"), "not a model signature", id="no-payload"),
        pytest.param(lambda e: e.update(payload="%"), "not a model signature", id="not-base64"),
    ],
)
def test_a_changed_signature_is_refused(
    signed: tuple[Path, Path], change: Callable[[Envelope], object], said: str
) -> None:
    root, public = signed
    bundle = json.loads((root / "model.sig").read_bytes())
    change(bundle["dsseEnvelope"])
    (root / "model.sig").write_text(json.dumps(bundle))

    with pytest.raises(ArtifactError, match=said):
        open_signed(root, public)


def test_a_statement_of_another_kind_is_refused_though_the_key_signed_it(
    signed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, public = signed
    monkeypatch.setattr("release.signing.PREDICATE_TYPE", "https://example.org/review")
    sign_artifact(root, lock_of(open_artifact(root)), tmp_path / "key.pem")

    with pytest.raises(ArtifactError, match="not a model signature of version 1"):
        open_signed(root, public)


@pytest.mark.parametrize("text", ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n"])
def test_a_key_that_is_none_is_named(signed: tuple[Path, Path], text: str, tmp_path: Path) -> None:
    key = tmp_path / "bad.pub"
    key.write_text(text)

    with pytest.raises(ArtifactError, match=r"bad\.pub: not a readable PEM public key"):
        open_signed(signed[0], key)


def test_a_key_is_never_overwritten_and_is_its_owners_alone(tmp_path: Path) -> None:
    make_key_pair(tmp_path / "key.pem")

    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ReleaseError, match="File exists"):
        make_key_pair(tmp_path / "key.pem")


def test_a_damaged_artifact_is_not_signed(signed: tuple[Path, Path], tmp_path: Path) -> None:
    root, _ = signed
    lock = lock_of(open_artifact(root))
    (root / "labels.json").write_text("[]")

    with pytest.raises(ArtifactError, match=r"changed: labels\.json"):
        sign_artifact(root, lock, tmp_path / "key.pem")


def test_model_signing_accepts_our_signature_and_we_accept_its(
    signed: tuple[Path, Path], tmp_path: Path
) -> None:
    model_signing = pytest.importorskip("model_signing", reason="model-signing is not there")
    root, public = signed
    ignored = [root / name for name in ("model.sig", "model.yaml", "record.json", "slo.json")]
    hashing = model_signing.hashing.Config().set_ignored_paths(paths=ignored)

    verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public)
    verifier.set_hashing_config(hashing).verify(root, root / "model.sig")
    theirs = tmp_path / "theirs.sig"
    signer = model_signing.signing.Config().use_elliptic_key_signer(
        private_key=tmp_path / "key.pem"
    )
    signer.set_hashing_config(hashing).sign(root, theirs)
    shutil.copy(theirs, root / "model.sig")

    open_signed(root, public)
