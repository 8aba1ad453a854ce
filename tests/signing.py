"""Keys for tests, and signatures by OpenSSF's model-signing."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization import PublicFormat as Public

from image_classifier.artifact.format import UNPINNED


def make_key(private: Path) -> Path:
    """Write a P-256 key, and its public key beside it; return the path of the public one."""
    key = ec.generate_private_key(ec.SECP256R1())
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = private.with_suffix(".pub")
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, Public.SubjectPublicKeyInfo))
    return public


def sign(root: Path, private: Path) -> None:
    """Sign an artifact as docs/deploy.md says."""
    import model_signing

    ignored = [root / name for name in UNPINNED]
    # model-signing 1.1.1 leaves its constructors without types.
    hashing = model_signing.hashing.Config()  # type: ignore[no-untyped-call]
    signing = model_signing.signing.Config()  # type: ignore[no-untyped-call]
    hashing.set_ignored_paths(paths=ignored)
    signing.use_elliptic_key_signer(private_key=private)
    signing.set_hashing_config(hashing).sign(root, root / "model.sig")
