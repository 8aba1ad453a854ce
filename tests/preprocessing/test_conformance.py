"""The conformance digests detect every change of pixels and name the changed files."""

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocessing import (
    DecodeRules,
    SpecPreprocessing,
    conformance_cases,
    conformance_digests,
    decode,
    differing_cases,
)
from tests.preprocessing.files import imagenet
from tests.preprocessing.test_own_class import FLOAT, load, with_body

FILES = conformance_cases()
REJECTED = {
    "decode/png-cut-short": "rejected:undecodable_image",
    "decode/jpeg-cut-short": "rejected:undecodable_image",
    "decode/png-too-long": "rejected:image_too_large",
    "decode/text": "rejected:unsupported_media_type",
}
WIDE_GREY = {"decode/png-grey16", "decode/png-grey16-one-transparent"}
# Without png-rgb16-one-transparent: Pillow compares the 16-bit colour with 8-bit pixels.
TRANSPARENT = {
    *(f"decode/png-{kind}-alpha" for kind in ("grey8", "grey16", "rgb8", "rgb16", "palette8")),
    *(f"decode/png-{kind}-one-transparent" for kind in ("grey8", "grey16", "rgb8", "palette2")),
    *(f"decode/{kind}" for kind in ("webp-lossy-alpha", "webp-lossless-alpha", "gif-transparent")),
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
    spec = imagenet(decode=DecodeRules.model_validate(rules))
    return conformance_digests(SpecPreprocessing(spec))


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    return digests()


def digest_of(array: np.ndarray) -> str:
    text = f"{array.dtype} ({', '.join(map(str, array.shape))})\n"
    return hashlib.sha256(text.encode() + array.tobytes()).hexdigest()


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
def test_the_outcomes_equal_those_of_pillow_and_torchvision(outcomes: dict[str, str]) -> None:
    from torchvision import transforms

    preset = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    expected = dict(REJECTED)
    for name, data in FILES.items():
        if name in REJECTED:
            continue
        image: Image.Image = Image.open(BytesIO(data))
        if name in WIDE_GREY:  # Pillow clips
            high_byte = (np.asarray(image) >> 8).astype(np.uint8)
            expected[name] = digest_of(np.stack([high_byte] * 3, axis=2))
        elif name == "decode/gif-grey-frame":  # Pillow applies the global palette
            # Index i of the frame's palette is the grey i; the indices are these.
            random = hashlib.shake_256(b"gif").digest(20 * 18)
            values = np.frombuffer(random, np.uint8) & 0x7F
            expected[name] = digest_of(np.stack([values.reshape(18, 20)] * 3, axis=2))
        else:
            image = image.convert("RGB")
            result = preset(image) if name.startswith("input/") else image
            expected[name] = digest_of(np.asarray(result))

    assert outcomes == expected


def test_each_decode_rule_changes_the_digests_of_the_files_it_concerns(
    outcomes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(differing_cases(outcomes, digests(grey16="clip"))) == WIDE_GREY
    for alpha in ("white", "black"):
        assert set(differing_cases(digests(alpha=alpha), outcomes)) == TRANSPARENT

    upright = digests(exif_orientation=True)
    monkeypatch.setattr(decode, "upright_turn", lambda image: None)
    assert set(differing_cases(upright, digests(exif_orientation=True))) == TURNED


def test_a_users_class_is_digested_with_its_dtype_and_shape(tmp_path: Path) -> None:
    actual = conformance_digests(load(tmp_path, FLOAT))

    image = Image.open(BytesIO(FILES["input/rgb"])).convert("L").resize((3, 2))
    assert actual["input/rgb"] == digest_of(np.asarray(image, np.float32)[..., None])
    assert actual.keys() == FILES.keys()


def test_an_exception_of_a_users_class_is_an_outcome(tmp_path: Path) -> None:
    inputs = {name for name in FILES if name.startswith("input/")}
    for body, outcome in {
        "1 / 0": "ZeroDivisionError",
        "return np.zeros(3)": "PreprocessingBug",
    }.items():
        digests = conformance_digests(load(tmp_path, with_body(body)))

        assert {name for name, value in digests.items() if value == f"raised:{outcome}"} == inputs


def test_a_missing_case_differs_and_an_additional_case_does_not() -> None:
    before, after = {"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9", "d": "4"}

    assert differing_cases(before, after) == ("b", "c")
