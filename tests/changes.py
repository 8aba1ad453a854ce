"""Changes to files that the program must detect."""

import json
from pathlib import Path


def flip_bit(path: Path) -> None:
    """Change the lowest bit of the byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit_json(path: Path, **changes: object) -> None:
    """Replace or add keys of the object that a JSON file holds."""
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))
