"""Changes to files, which the program must detect unless the digests change with them."""

import json
from pathlib import Path

from image_classifier.artifact.format import sha256_file


def flip_bit(path: Path) -> None:
    """Change the lowest bit of the byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit_json(path: Path, **changes: object) -> None:
    """Replace or add keys of the object that a JSON file holds."""
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def reseal(root: Path) -> None:
    """Write the digests of changed files into the manifest and the evidence of an artifact."""
    before = json.loads((root / "manifest.json").read_bytes())["files"]
    files = {name: sha256_file(root / name) for name in before}
    if files != before:  # written anew, the manifest would be that of another identity
        edit_json(root / "manifest.json", files=files)
    edit_json(
        root / "evidence.json",
        identity_sha256=sha256_file(root / "manifest.json"),
        reference_logits_sha256=sha256_file(root / "golden" / "logits.npy"),
    )
