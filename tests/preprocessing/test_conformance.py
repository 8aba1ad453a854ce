"""The conformance cases notice every change of pixels and name the files it changes."""

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageChops, ImageFile
from torchvision import transforms

from preprocessing import (
    DecodeRules,
    PreprocessingSpec,
    SpecPreprocessing,
    conformance_cases,
    conformance_digests,
    decode,
    differing_cases,
    load_preprocessing,
    transform,
)
from tests.preprocessing import make_conformance_cases as script

FILES = {case.name: case.data for case in conformance_cases()}
INPUT_FILES = {name: data for name, data in FILES.items() if name.startswith("input/")}
REJECTED = {
    "decode/png-cut-short": "rejected:undecodable_image",
    "decode/jpeg-cut-short": "rejected:undecodable_image",
    "decode/png-too-long": "rejected:image_too_large",
    "decode/text": "rejected:unsupported_media_type",
}
WIDE_GREY = {"decode/png-grey16", "decode/png-grey16-one-transparent"}
CMYK = {"decode/jpeg-cmyk", "decode/jpeg-cmyk-without-adobe", "decode/jpeg-ycck"}
GREY_ALPHA = {"decode/png-grey8-alpha"}
RGBA = {
    "decode/png-grey16-alpha",  # Pillow decodes it so
    "decode/png-rgb8-alpha",
    "decode/png-rgb16-alpha",
    "decode/webp-lossy-alpha",
    "decode/webp-lossless-alpha",
}
# Not png-rgb16-one-transparent: Pillow compares the 16-bit colour with 8-bit pixels.
ONE_TRANSPARENT = {
    "decode/png-grey8-one-transparent",
    "decode/png-grey16-one-transparent",
    "decode/png-rgb8-one-transparent",
    "decode/png-palette2-one-transparent",
    "decode/png-palette8-alpha",
    "decode/gif-transparent",
}
TURNED = {
    *(f"decode/jpeg-exif-orientation{orientation}" for orientation in range(2, 9)),
    "decode/jpeg-xmp-orientation6",
    "decode/png-exif-orientation6",
    "decode/png-xmp-orientation8",
    "decode/png-imagemagick-orientation3",
    "decode/webp-exif-orientation5",
}


def digests(**rules: object) -> dict[str, str]:
    spec = PreprocessingSpec.imagenet().model_copy(update={"decode": DecodeRules(**rules)})
    return conformance_digests(SpecPreprocessing(spec))


@pytest.fixture(scope="module")
def imagenet() -> dict[str, str]:
    return digests()


def digest_of(array: np.ndarray) -> str:
    text = f"uint8 ({', '.join(map(str, array.shape))})\n"
    return hashlib.sha256(text.encode() + array.tobytes()).hexdigest()


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
def test_the_outcomes_are_those_of_pillow_and_torchvision(imagenet):
    preset = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    expected = dict(REJECTED)
    for name, data in FILES.items():
        if name in REJECTED:
            continue
        image = Image.open(BytesIO(data))
        if name in WIDE_GREY:  # Pillow clips
            wide = np.asarray(image)
            expected[name] = digest_of(np.stack([(wide >> 8).astype(np.uint8)] * 3, axis=2))
        elif name == "decode/gif-grey-frame":  # Pillow shows the palette of the screen
            values = np.frombuffer(script.noise("gif", 20 * 18), np.uint8) & 0x7F
            grey = values.reshape(18, 20)
            expected[name] = digest_of(np.stack([grey] * 3, axis=2))
        else:
            image = image.convert("RGB")
            expected[name] = digest_of(
                np.asarray(preset(image) if name.startswith("input/") else image)
            )

    assert imagenet == expected


def test_every_container_mode_and_orientation_is_there():
    kinds, orientations = set(), set()
    for name in FILES.keys() - REJECTED.keys():
        with Image.open(BytesIO(FILES[name])) as image:
            image.load()
            kinds |= {(image.format, image.mode)}
            orientations |= {image.getexif().get(0x0112)}

    assert kinds == {
        *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
        *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
        *(("GIF", mode) for mode in ("L", "P")),
        *(("BMP", mode) for mode in ("1", "P", "RGB")),
    }
    assert orientations >= set(range(1, 9))


def test_sizes_enlarge_shrink_and_keep_for_an_input_of_224():
    shorter = {min(Image.open(BytesIO(data)).size) for data in INPUT_FILES.values()}

    assert min(shorter) < 10
    assert 256 in shorter
    assert max(shorter) > 256


def test_a_resized_length_that_is_rounded_up_is_noticed(imagenet, monkeypatch):
    def rounded(size, side, max_size=None):
        length = round(side * max(size) / min(size))
        return (side, length) if size[0] <= size[1] else (length, side)

    monkeypatch.setattr(transform, "shorter_side_size", rounded)

    # 256 · 29 / 9 = 824.9, 256 · 17 / 9 = 483.6, 256 · 301 / 289 = 266.6, 256 · 22 / 18 = 312.9
    assert set(differing_cases(imagenet, digests())) == {
        "input/29x9",
        "input/9x17",
        "input/289x301",
        "input/rgb",
    }


@pytest.mark.parametrize(
    ("rounding", "names"),
    [
        # 24 · 256 / 19 = 323 and 17 · 256 / 9 = 483 pixels: the crop begins at 49.5, which is
        # rounded to 50, and at 129.5, which is rounded to 130.
        (np.floor, {"input/grey", "input/9x17"}),
        # 9 · 256 / 7 = 329 and 361 · 256 / 271 = 341 pixels: 52.5 → 52 and 58.5 → 58.
        (np.ceil, {"input/7x9", "input/jpeg-361x271"}),
    ],
)
def test_another_rounding_of_the_crop_is_noticed(imagenet, monkeypatch, rounding, names):
    def box(size, crop):
        left, upper = (
            int(rounding((length - wanted) / 2)) for length, wanted in zip(size, crop, strict=True)
        )
        return left, upper, left + crop[0], upper + crop[1]

    monkeypatch.setattr(transform, "centre_crop_box", box)

    assert set(differing_cases(imagenet, digests())) == names


@pytest.mark.parametrize("filter_", [Image.Resampling.HAMMING, Image.Resampling.BICUBIC])
def test_another_filter_is_noticed(imagenet, monkeypatch, filter_):
    monkeypatch.setitem(transform._FILTERS, "bilinear", filter_)

    assert set(differing_cases(imagenet, digests())) == INPUT_FILES.keys() - {"input/256x256"}


@pytest.mark.parametrize(
    ("mode", "names"),
    [("LA", GREY_ALPHA), ("RGBA", RGBA), ("CMYK", CMYK), ("I;16", WIDE_GREY)],
)
def test_one_value_of_one_pixel_of_one_mode_is_noticed(imagenet, monkeypatch, mode, names):
    load = ImageFile.ImageFile.load

    def load_with_one_difference(self):
        result = load(self)
        if self.mode == mode:
            middle = (self.width // 2, self.height // 2)
            value = self.getpixel(middle)
            changed = value ^ 0x100 if mode == "I;16" else (value[0] ^ 1, *value[1:])
            self.putpixel(middle, changed)
        return result

    monkeypatch.setattr(ImageFile.ImageFile, "load", load_with_one_difference)

    assert set(differing_cases(imagenet, digests())) == names


def test_another_cmyk_rule_is_noticed(imagenet, monkeypatch):
    convert = Image.Image.convert

    def convert_without_inversion(self, mode, *rest):
        converted = convert(self, mode, *rest)
        return ImageChops.invert(converted) if self.mode == "CMYK" else converted

    monkeypatch.setattr(Image.Image, "convert", convert_without_inversion)

    assert set(differing_cases(imagenet, digests())) == CMYK


def test_another_rule_for_16_bit_grey_is_noticed(imagenet):
    assert set(differing_cases(imagenet, digests(grey16="clip"))) == WIDE_GREY


def test_a_dropped_orientation_is_noticed(monkeypatch):
    expected = digests(exif_orientation=True)
    monkeypatch.setattr(decode, "upright_turn", lambda image: None)

    assert set(differing_cases(expected, digests(exif_orientation=True))) == TURNED


@pytest.mark.parametrize("alpha", ["white", "black"])
def test_a_dropped_alpha_is_noticed(imagenet, alpha):
    expected = digests(alpha=alpha)

    assert set(differing_cases(expected, imagenet)) == GREY_ALPHA | RGBA | ONE_TRANSPARENT


def test_a_half_decoded_file_is_noticed(imagenet, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)

    assert set(differing_cases(imagenet, digests())) == {
        "decode/png-cut-short",
        "decode/jpeg-cut-short",
    }


OWN = """
import numpy as np
from preprocessing import DecodeRules

class Own:
    decode = DecodeRules(mode="L")
    input_shape = (4, 6, 1)
    input_dtype = "float32"
    mean = None
    std = None

    def to_input(self, image):
        return np.asarray(image.resize((6, 4)), np.float32)[..., None] / 255
"""


def own_digests(folder: Path, source: str) -> dict[str, str]:
    (folder / "own.py").write_text(source)
    return conformance_digests(load_preprocessing(folder / "own.py", "Own"))


def test_a_users_class_is_digested_with_its_dtype_and_shape(tmp_path):
    found = own_digests(tmp_path, OWN)

    image = Image.open(BytesIO(FILES["input/rgb"])).convert("L").resize((6, 4))
    values = np.asarray(image, np.float32) / 255
    expected = hashlib.sha256(b"float32 (4, 6, 1)\n" + values.tobytes()).hexdigest()
    assert found["input/rgb"] == expected
    assert found.keys() == FILES.keys()


@pytest.mark.parametrize(
    ("result", "outcome"),
    [("1 / 0", "raised:ZeroDivisionError"), ("np.zeros(3)", "raised:PreprocessingBug")],
)
def test_what_a_users_class_raises_is_an_outcome(tmp_path, result, outcome):
    source = OWN[: OWN.index("        return")] + f"        return {result}\n"

    found = own_digests(tmp_path, source)

    assert {name for name, value in found.items() if value == outcome} == INPUT_FILES.keys()


def test_a_missing_case_differs_and_an_additional_one_does_not():
    assert differing_cases({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9", "d": "4"}) == (
        "b",
        "c",
    )


def test_the_script_makes_the_lossless_files_again():
    made = script.lossless_cases()

    assert {name: FILES[name] for name in made} == made
    assert FILES.keys() - made.keys() == script.lossy_cases().keys()


@pytest.mark.skipif(PIL.__version__ != "13.0.0", reason="another encoder writes other bytes")
def test_the_script_makes_the_jpeg_files_again():
    made = {name: data for name, data in script.lossy_cases().items() if "jpeg" in name}

    assert {name: FILES[name] for name in made} == made


def test_the_script_keeps_the_lossy_files_that_are_there(tmp_path):
    archive = tmp_path / "cases.zip"
    archive.write_bytes(script.CASES_FILE.read_bytes())

    script.write(archive)

    assert archive.read_bytes() == script.CASES_FILE.read_bytes()
