"""The image mixes: made from camera photos with fixed seeds, the same files every time."""

import random
from io import BytesIO
from pathlib import Path

from PIL import Image

from preprocessing.errors import OperatorError

WEB_MIX = "web500"
"""48 JPEGs of 500x375, about 108 KB each: the size of a typical ImageNet file."""

CAMERA_MIX = "camera12mp"
"""6 JPEGs of 12 megapixels (4000x3000), 1 to 5 MB."""

DIGITS_MIX = "digits"
"""The samples of examples/digits: 30 small files of several formats."""

WEB_SIZE = (500, 375)
CAMERA_SIZE = (4000, 3000)
WEB_BYTES = 108_000


class ImagesError(OperatorError):
    """The photos the mixes are made from are missing."""


def make_mixes(photos: Path, target: Path) -> dict[str, list[str]]:
    """Write both mixes below `target`; files that exist already are kept.

    Args:
        photos: Directory of camera JPEGs of 8 megapixels or more.

    Returns:
        Mix name to its files, in order.
    """
    sources = sorted(photos.glob("*.jpg"))
    if not sources:
        raise ImagesError(
            f"{photos.name}: no *.jpg, expected camera photos of 8 megapixels or more; "
            "name a directory of photos with --photos"
        )
    return {
        WEB_MIX: _made(sources, target / WEB_MIX, count=48, size=WEB_SIZE),
        CAMERA_MIX: _made(sources, target / CAMERA_MIX, count=6, size=CAMERA_SIZE),
    }


def _made(sources: list[Path], folder: Path, *, count: int, size: tuple[int, int]) -> list[str]:
    """`size` is (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:02d}.jpg" for index in range(count)]
    opened: dict[Path, Image.Image] = {}
    for index, path in enumerate(paths):
        if path.exists():
            continue
        source = sources[index % len(sources)]
        photo = opened.setdefault(source, Image.open(source).convert("RGB"))
        crop = random_crop(photo, size, random.Random(index))
        crop.save(path, quality=_quality(crop) if size == WEB_SIZE else 90)
    return [str(path) for path in paths]


def random_crop(photo: Image.Image, size: tuple[int, int], chance: random.Random) -> Image.Image:
    """A part of the photo with the aspect ratio of `size` (width, height), at that size.

    Web images show a part of 45 to 100 % of the photo's width; camera images nearly all of it.
    """
    width, height = size
    widest = min(photo.width, photo.height * width // height)
    low, high = (0.45, 1.0) if size == WEB_SIZE else (0.9, 1.0)
    crop_width = int(widest * chance.uniform(low, high))
    crop_height = crop_width * height // width
    left = chance.randrange(photo.width - crop_width + 1)
    top = chance.randrange(photo.height - crop_height + 1)
    box = (left, top, left + crop_width, top + crop_height)
    return photo.resize(size, Image.Resampling.LANCZOS, box=box)


def _quality(image: Image.Image) -> int:
    """The JPEG quality at which this picture is nearest to `WEB_BYTES`, of 60..100."""

    def size_at(quality: int) -> int:
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return buffer.tell()

    return min(range(60, 101, 2), key=lambda quality: abs(size_at(quality) - WEB_BYTES))
