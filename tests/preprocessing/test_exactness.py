"""The built-in steps equal torchvision bit for bit."""

import hashlib
import importlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from preprocessing import DecodeRules, PreprocessingSpec, Resize, SpecPreprocessing, to_input
from tests.preprocessing.files import LIMITS, imagenet, noise
from tests.shared_data import SHARED, needs_shared_data

PIL_KINDS = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
TENSOR_KINDS = [
    (interpolation, antialias)
    for interpolation in ("nearest", "bilinear", "bicubic", "lanczos")
    for antialias in (True, False)
    if antialias or interpolation != "lanczos"
]
SIDES = st.integers(1, 90)
PAIRS = st.tuples(SIDES, SIDES)
IMAGES = st.builds(noise, SIDES, SIDES, st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))


@st.composite
def resizes(draw: st.DrawFn) -> dict[str, Any] | None:
    """Draw any resize of a PIL image, or None."""
    interpolation = draw(st.sampled_from(PIL_KINDS))
    match draw(st.sampled_from(["none", "exact", "shorter_side", "max_size"])):
        case "exact":
            return {"mode": "exact", "size": draw(PAIRS), "interpolation": interpolation}
        case "shorter_side":
            return {"size": draw(SIDES), "interpolation": interpolation}
        case "max_size":
            size, excess = draw(SIDES), draw(st.integers(1, 60))
            return {"size": size, "max_size": size + excess, "interpolation": interpolation}
    return None


def input_of(
    image: Image.Image, resize: Resize | None, crop: int | tuple[int, int] | None
) -> np.ndarray:
    decode = DecodeRules.model_validate({"mode": image.mode})
    spec = PreprocessingSpec(decode=decode, resize=resize, crop=crop)
    return SpecPreprocessing(spec).to_input(image)


@pytest.mark.parametrize("version", ["functional", "v2.functional"])
@settings(max_examples=150)
@given(image=IMAGES, resize=resizes(), crop=PAIRS)
def test_resize_and_crop_equal_torchvision(
    version: str, image: Image.Image, resize: dict[str, Any] | None, crop: tuple[int, int]
) -> None:
    from torchvision.transforms import InterpolationMode

    functional = importlib.import_module(f"torchvision.transforms.{version}")
    resized = image
    if resize is not None:
        size, max_size = resize["size"], resize.get("max_size")
        short, long = sorted(image.size)
        if max_size is not None and max_size * size < int(size * long / short):
            return  # torchvision raises for a side of 0 pixels; the limits refuse such an image
        interpolation = InterpolationMode[resize["interpolation"].upper()]
        sides = list(size) if "mode" in resize else [size]
        resized = functional.resize(image, sides, interpolation, max_size=max_size)
    expected = np.array(functional.center_crop(resized, list(crop)))

    actual = input_of(image, None if resize is None else Resize.model_validate(resize), crop)

    assert actual.dtype == np.uint8
    assert actual.flags.c_contiguous
    np.testing.assert_array_equal(actual, expected.reshape(actual.shape))


@given(width=st.integers(8, 90), height=st.integers(8, 90))
def test_a_crop_rounded_down_is_that_of_integer_division(width: int, height: int) -> None:
    image = noise(width, height, 3, seed=1)
    spec = PreprocessingSpec(crop=(7, 8), crop_rounding="down")
    left, upper = (width - 8) // 2, (height - 7) // 2

    actual = SpecPreprocessing(spec).to_input(image)

    np.testing.assert_array_equal(actual, np.asarray(image)[upper : upper + 7, left : left + 8])


@settings(max_examples=100)
@given(image=IMAGES, size=PAIRS, kind=st.sampled_from(TENSOR_KINDS))
def test_tensor_resize_equals_torchvision_v2(
    image: Image.Image, size: tuple[int, int], kind: tuple[str, bool]
) -> None:
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as v2f

    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("without AVX2 torchvision resizes uint8 tensors through float32")
    interpolation, antialias = kind
    resized = v2f.resize(
        v2f.pil_to_tensor(image),
        list(size),
        InterpolationMode[interpolation.upper()],
        antialias=antialias,
    )
    resize = Resize.model_validate(
        {"mode": "exact", "size": size, "interpolation": interpolation,
         "backend": "tensor", "antialias": antialias}
    )  # fmt: skip

    actual = input_of(image, resize, None)

    np.testing.assert_array_equal(actual, resized.permute(1, 2, 0).numpy())


SPECS = {
    "squeezenet1_1_imagenet": imagenet(),
    "mobilenet_v2_tfqat_imagenet": imagenet(crop=225, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "resnet20_cifar10": imagenet(resize=32, crop=32),
    "mnist_cnn_tiny": PreprocessingSpec(
        decode=DecodeRules(mode="L"), resize=Resize(size=28), crop=28
    ),
}


@needs_shared_data
@pytest.mark.parametrize("golden", sorted(path.name for path in (SHARED / "golden").glob("*.json")))
def test_inputs_of_real_photos_have_the_digests_of_the_reference_in_any_thread(golden: str) -> None:
    model, folder = golden.split(".")[:2]
    preprocessing = SpecPreprocessing(SPECS[model])
    images = json.loads((SHARED / "golden" / golden).read_text())["images"]

    def digest(name: str) -> str:
        data = (SHARED / "images" / folder / name).read_bytes()
        return hashlib.sha256(to_input(data, preprocessing, LIMITS).tobytes()).hexdigest()

    with ThreadPoolExecutor(4) as pool:
        actual = dict(zip(images, pool.map(digest, images), strict=True))

    assert actual == {name: image["crop_sha256"] for name, image in images.items()}
