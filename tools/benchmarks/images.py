"""The image mixes: synthetic pictures with photographic detail, the same on every machine."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from tools.serving import ROOT

WEB_MIX = "synthetic500"
"""48 JPEGs of 500x375, about 108 KB each: the size of a typical ImageNet file."""
CAMERA_MIX = "synthetic12mp"
"""6 JPEGs of 4000x3000, about 6 MB."""
DIGITS_MIX = "digits"
"""The samples of examples/digits: 30 small files of several formats."""

WEB_SIZE = (500, 375)
COUNT_AND_SIZE = {WEB_MIX: (48, WEB_SIZE), CAMERA_MIX: (6, (4000, 3000))}
"""Number of files and (width, height)."""
GRAIN = 26
"""Standard deviation of the grain, of 255 levels."""


def mix_files(mix: str, folder: Path) -> tuple[str, ...]:
    """Return the files of a mix in order; write missing ones below `folder`."""
    if mix == DIGITS_MIX:
        return tuple(sorted(str(file) for file in (ROOT / "examples/digits/samples").iterdir()))
    count, size = COUNT_AND_SIZE[mix]
    (folder / mix).mkdir(parents=True, exist_ok=True)
    paths = [folder / mix / f"{index:02d}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        if not path.exists():
            synthetic_photo(size, seed=index).save(path, quality=90)
    return tuple(map(str, paths))


def synthetic_photo(size: tuple[int, int], *, seed: int) -> Image.Image:
    """Return a picture with a spectrum like that of photographs.

    Enlarged random grids of 2, 4, 8, … cells a side are added, each finer one weaker, then a grain
    of single pixels, which makes the JPEG, and its decoding, as large as a photograph's.

    Args:
        size: (width, height).
    """
    chance = np.random.default_rng(seed)
    width, height = WEB_SIZE
    picture = np.full((height, width, 3), 128.0) + chance.uniform(-60, 60, 3)
    cells, strength = 2, 90.0
    while cells < height:
        # Equal amounts of detail in brightness and colour.
        grid = chance.normal(0, strength, (cells, cells, 1))
        grid = grid + chance.normal(0, strength / 2, (cells, cells, 3))
        for channel in range(3):
            layer = Image.fromarray(grid[..., channel].astype(np.float32))
            picture[..., channel] += np.asarray(layer.resize(WEB_SIZE, Image.Resampling.BICUBIC))
        cells, strength = cells * 2, strength * chance.uniform(0.5, 0.75)
    image = Image.fromarray(picture.clip(0, 255).astype(np.uint8)).resize(size)
    grain = 128 + GRAIN * chance.standard_normal(size[::-1], dtype=np.float32)
    layer = Image.fromarray(grain.clip(0, 255).astype(np.uint8)).convert("RGB")
    return ImageChops.add(image, layer, offset=-128)
