"""A preprocessing that differs from the researcher's is refused with the right cause.

The notebook's side is written out here with Pillow, torchvision and numpy.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file

from image_classifier.artifact.manifest import Outputs, PreprocessingEntry
from image_classifier.inference.predictions import activate
from importer import diagnosis
from importer.diagnosis import Comparison, unproven_keys
from importer.errors import ImportRefused
from importer.golden_images import GoldenImage
from importer.reference import Kind, Reference
from preprocessing import DecodeRules, PreprocessingSpec
from tests.imports import digits_options, import_quietly, spec_file
from tests.preprocessing.files import encoded

SIDE = 16
KERNEL = np.random.default_rng(2).normal(scale=0.3, size=(3, 3 * SIDE * SIDE)).astype(np.float32)
NETWORK = f"""from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear({3 * SIDE * SIDE}, 3, bias=False))
"""
CLASS = """import numpy as np
from preprocessing import DecodeRules


class Own:
    decode = DecodeRules()
    input_shape = (16, 16, 3)
    input_dtype = "{dtype}"
    mean = std = {mean}

    def to_input(self, image):
        pixels = np.array(image.resize((24, 18), 2).crop((4, 1, 20, 17)))
        return {answer}
"""
RIGHT = {"resize": {"size": 18}, "crop": SIDE, "mean": [0.5] * 3, "std": [0.5] * 3}
Notebook = Callable[[Path], np.ndarray]


def images(folder: Path) -> None:
    """Four images of 40x30: opaque, turned by EXIF, transparent, 16-bit grey."""
    folder.mkdir()
    noise = np.random.default_rng(3)
    coarse = noise.integers(0, 256, (4, 6, 8, 4), dtype=np.uint8)
    pixels = [np.kron(item, np.ones((5, 5, 1), np.uint8)) for item in coarse]
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels[0][..., :3]).save(folder / "plain.png")
    Image.fromarray(pixels[1][..., :3]).save(folder / "turned.png", exif=exif)
    Image.fromarray(pixels[2]).save(folder / "clear.png")
    grey = pixels[3][..., 0].astype(np.uint16) * 3  # up to 765: convert() leaves a third of it
    Image.fromarray(grey).save(folder / "grey16.png")


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def decoded(path: Path) -> Image.Image:
    """As this program decodes by default: hidden colours shown, the high byte of 16-bit grey."""
    image = opened(path)
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def resized(image: Image.Image) -> np.ndarray:
    """The shorter side to 18, the central 16x16, pixels in [0, 255]."""
    small = image.resize((24, 18), Image.Resampling.BILINEAR)
    return np.asarray(small)[1:17, 4:20].astype(np.float64)


def logits(pixels: np.ndarray) -> np.ndarray:
    return KERNEL.astype(np.float64) @ ((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1).ravel()


def plain(path: Path) -> np.ndarray:
    return logits(resized(decoded(path)))


def squashed(path: Path) -> np.ndarray:
    image = decoded(path).resize((18, 18), Image.Resampling.BILINEAR)
    return logits(np.asarray(image)[1:17, 1:17].astype(np.float64))


def tall(path: Path) -> np.ndarray:
    return logits(np.asarray(decoded(path).resize((8, 32), 2)).astype(np.float64))


def cropped_lower(path: Path) -> np.ndarray:
    """The shorter side to 19, and a crop that begins at 1 of a margin of 3; torchvision: at 2."""
    small = np.asarray(decoded(path).resize((25, 19), Image.Resampling.BILINEAR))
    return logits(small[1:17, 4:20].astype(np.float64))


def upright(path: Path) -> np.ndarray:
    return logits(resized(ImageOps.exif_transpose(decoded(path))))


def on_white(path: Path) -> np.ndarray:
    image = opened(path)
    if image.mode != "RGBA":
        return plain(path)
    white = Image.new("RGBA", image.size, "white")
    return logits(resized(Image.alpha_composite(white, image).convert("RGB")))


def small_without_antialias(path: Path) -> np.ndarray:
    from torchvision.transforms import v2

    pixels = v2.functional.pil_to_tensor(decoded(path))
    small = v2.functional.resize(pixels, [18, 24], antialias=False)
    array: np.ndarray = small.permute(1, 2, 0).numpy()
    return array


def without_antialias(path: Path) -> np.ndarray:
    return logits(small_without_antialias(path)[1:17, 4:20].astype(np.float64))


def without_lowest_bit(path: Path) -> np.ndarray:
    """Without antialias, by a library that loses the lowest bit of green."""
    small = small_without_antialias(path)
    return logits((small[1:17, 4:20] & [255, 254, 255]).astype(np.float64))


def refusal(
    store: Path,
    folder: Path,
    notebook: Notebook,
    own: dict[str, str] | None = None,
    *,
    kind: Kind = "logits",
    **spec: Any,
) -> str:
    images(folder / "golden")
    files = sorted(path.name for path in (folder / "golden").iterdir())
    rows = [notebook(folder / "golden" / name) for name in files]
    numbers: dict[str, Any] = {kind: np.array(rows)}
    np.savez(folder / "reference.npz", files=files, **numbers)
    (folder / "network.py").write_text(NETWORK)
    save_file({"1.weight": torch.from_numpy(KERNEL)}, folder / "w.safetensors")
    preprocessing = spec_file(folder, {**RIGHT, **spec})
    if own is not None:
        (folder / "own.py").write_text(CLASS.format(**own))
        preprocessing = f"{folder}/own.py:Own"
    (folder / "labels.txt").write_text("a\nb\nc")
    options = digits_options(
        network=f"{folder}/network.py:build",
        weights=str(folder / "w.safetensors"),
        preprocessing=preprocessing,
        labels=str(folder / "labels.txt"),
        golden=folder / "golden",
        golden_labels=None,
        reference=folder / "reference.npz",
    )
    with pytest.raises(ImportRefused) as refused:
        import_quietly(options, folder / "model.lock")
    assert not (folder / "model.lock").exists()
    assert not list(store.glob("models/*"))
    return str(refused.value)


@pytest.mark.parametrize(
    ("notebook", "spec", "changes"),
    [
        (
            plain,
            {"mean": [0.0] * 3, "std": [1.0] * 3},
            "mean: [0.5, 0.5, 0.5] (given is [0.0, 0.0, 0.0]), "
            "std: [0.5, 0.5, 0.5] (given is [1.0, 1.0, 1.0])",
        ),
        (plain, {"resize": {"size": 16}}, "resize.size: 18 (given is 16)"),
        (squashed, {}, 'resize.mode: "exact" (given is "shorter_side")'),
        (
            tall,
            {"resize": {"mode": "exact", "size": [8, 32]}, "crop": None},
            "resize.size: [32, 8] (given is [8, 32])",
        ),
        (cropped_lower, {"resize": {"size": 19}}, 'crop_rounding: "down" (given is "even")'),
        (
            without_antialias,
            {},
            'resize.backend: "tensor" (given is "pil"), resize.antialias: false (given is true)',
        ),
        (upright, {}, "decode.exif_orientation: true (given is false)"),
        (
            on_white,
            {"decode": {"grey16": "clip"}},
            'decode.alpha: "white" (given is "drop"), decode.grey16: "scale" (given is "clip")',
        ),
    ],
)
def test_the_message_names_one_or_two_wrong_steps(
    store: Path, tmp_path: Path, notebook: Notebook, spec: dict[str, Any], changes: str
) -> None:
    text = refusal(store, tmp_path, notebook, **spec)

    cause = f"likely cause: the reference's numbers come with {changes}; change the preprocessing"
    assert cause in text


def test_a_cause_that_square_images_cannot_prove_is_said_to_be_one_of_two(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def square(folder: Path) -> None:
        folder.mkdir()
        for seed in range(3):
            pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{seed}.png")

    monkeypatch.setattr(sys.modules[__name__], "images", square)

    text = refusal(store, tmp_path, squashed, resize={"size": 16})

    assert "resize.size: 18 (given is 16), which cannot be told from resize.mode: exact" in text


def test_a_cause_that_rests_on_saturated_probabilities_is_uncertain(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "KERNEL", KERNEL * 1e4)

    def certain(path: Path) -> np.ndarray:
        answer = plain(path)
        return np.asarray(answer == answer.max(), np.float64)

    text = refusal(store, tmp_path, certain, kind="probabilities", mean=[0.0] * 3, std=[1.0] * 3)

    assert "(uncertain, since most probabilities are 0 or 1: save logits)" in text


@pytest.mark.parametrize(
    ("own", "cause"),
    [
        (
            {"dtype": "uint8", "mean": "(0.5,) * 3", "answer": "pixels[..., ::-1].copy()"},
            "the reference's numbers come with the channels in the opposite order (BGR for RGB);",
        ),
        (
            {"dtype": "float32", "mean": "None", "answer": "(pixels / 127.5 - 1).astype('f4') * 2"},
            "likely cause: the reference's numbers come with the spec {",
        ),
    ],
)
def test_the_search_also_covers_a_preprocessing_class(
    store: Path, tmp_path: Path, own: dict[str, str], cause: str
) -> None:
    assert cause in refusal(store, tmp_path, plain, own)


DECODED = ["decode.alpha", "decode.exif_orientation", "decode.grey16"]
COLOURS = "the order of RGB"
EXACT = {"resize": {"mode": "exact", "size": [16, 16]}, "crop": None}
NOISE = np.random.default_rng(4).integers(0, 256, (60, 60, 3), np.uint8)


@pytest.mark.parametrize(
    ("spec", "pixels", "unproven"),
    [
        ({"resize": {"size": 19}}, NOISE[:40, :30], DECODED),
        ({"resize": {"size": 20}}, NOISE[:47, :52], ["crop_rounding", *DECODED]),  # to 22x20
        ({}, NOISE, ["crop_rounding", *DECODED, "resize.mode"]),
        (EXACT, NOISE[:40], DECODED),
        (EXACT, NOISE[:57, :58], [*DECODED, "resize.mode"]),  # 16x16 in both modes
        ({"crop": [16, 16]}, NOISE[:40], DECODED),
        (EXACT, NOISE[:40, :, :1].repeat(3, 2), [*DECODED, COLOURS]),
        ({"resize": {"size": 18, "max_size": 30}}, NOISE[:40], [*DECODED, "resize.max_size"]),
        (
            {"resize": {"size": 18, "max_size": 24}},  # always to 24x12
            NOISE[:30],
            ["crop_rounding", *DECODED, "resize.size"],
        ),
        (
            {"resize": {"size": 18, "backend": "tensor"}},
            NOISE[:11, :13],
            ["crop_rounding", *DECODED, "resize.antialias"],
        ),
        (None, NOISE, DECODED),
    ],
)
def test_keys_that_the_golden_images_do_not_show_are_named(
    tmp_path: Path, spec: dict[str, Any] | None, pixels: np.ndarray, unproven: list[str]
) -> None:
    entry = PreprocessingEntry(decode=DecodeRules(), file="own.py", class_name="Own")
    if spec is not None:
        entry = PreprocessingEntry(
            decode=DecodeRules(), spec=PreprocessingSpec.model_validate({**RIGHT, **spec})
        )
    images(tmp_path / "golden")
    odd = {
        path.name: GoldenImage(name=path.name, data=path.read_bytes())
        for path in (tmp_path / "golden").iterdir()
    }
    plain = GoldenImage(name="plain", data=encoded(Image.fromarray(pixels), "PNG"))

    assert unproven_keys([plain] * 3, entry) == unproven
    for key, name in zip(DECODED, ("clear.png", "turned.png", "grey16.png"), strict=True):
        assert key not in unproven_keys([plain, plain, odd[name]], entry)


def test_keys_are_shown_by_rare_images_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "UNPROVEN_CPU_SECONDS", 0.0)
    images(tmp_path / "golden")
    plain, clear = (
        GoldenImage(name=name, data=(tmp_path / "golden" / name).read_bytes())
        for name in ("plain.png", "clear.png")
    )
    entry = PreprocessingEntry(decode=DecodeRules(), file="own.py", class_name="Own")

    assert unproven_keys([plain, plain, clear], entry) == DECODED[1:]


@pytest.mark.parametrize("kind", ["probabilities", "logits"])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_the_tolerance_is_smaller_for_small_or_similar_numbers(
    tmp_path: Path, kind: Kind, size: float
) -> None:
    logits = np.random.default_rng(0).normal(scale=size, size=(4, 1000)).astype(np.float32)
    numbers = activate(logits, Outputs()) if kind == "probabilities" else logits
    images = tuple(GoldenImage(name=f"{row}", data=b"") for row in range(4))
    rows = {image.name: row.astype(float) for image, row in zip(images, numbers, strict=True)}
    reference = Reference(kind=kind, by_name=rows, path=tmp_path)

    comparison = Comparison.of(reference, images, logits, Outputs(), tolerance=1e-3)

    assert comparison.excess((logits * 1.00001).astype(np.float32)) < 1
    assert comparison.excess(logits[:, ::-1]) > 2
    assert comparison.excess(logits[:1] * 1.00001, row=0) < 1


def test_what_no_preprocessing_explains_is_reported_with_what_to_check(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "SEARCH_CPU_SECONDS", 0.1)

    text = refusal(store, tmp_path, lambda path: -plain(path))

    assert "no usual difference of preprocessing explains it: check that each row is" in text


def test_a_change_that_removes_most_of_the_difference_is_reported(
    store: Path, tmp_path: Path
) -> None:
    text = refusal(store, tmp_path, without_lowest_bit)

    assert "nearly reproduced, up to " in text
    assert "resize.antialias: false (given is true)" in text
    assert "likely cause" not in text
    assert text.endswith("or give a preprocessing class with the notebook's own calls")
