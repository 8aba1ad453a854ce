"""Folders of stand-ins for images, and what was read of them."""

from pathlib import Path

from importer.golden_images import GoldenImages

LABELS = ("cat", "dog", "red fox", "crane", "crane")
IMAGE = b"\x89PNG\r\n\x1a\n and the rest"


def folder_of(tmp_path: Path, *names: str, table: str | None = None) -> Path:
    for name in names:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(IMAGE + name.encode())
    if table is not None:
        (tmp_path / "images" / "labels.csv").write_text(table, encoding="utf-8")
    return tmp_path / "images"


def classes(golden: GoldenImages) -> dict[str, int | None]:
    return {image.name: image.label for image in golden.images}
