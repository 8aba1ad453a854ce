"""The built-in steps against torchvision itself, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as v1
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.v2 import functional as v2f

from preprocessing import DecodeRules, PreprocessingSpec, Resize, SpecPreprocessing
from tests.preprocessing.differences import normalised
from tests.preprocessing.files import noise

MODES = {
    "nearest": InterpolationMode.NEAREST,
    "box": InterpolationMode.BOX,
    "bilinear": InterpolationMode.BILINEAR,
    "hamming": InterpolationMode.HAMMING,
    "bicubic": InterpolationMode.BICUBIC,
    "lanczos": InterpolationMode.LANCZOS,
}
PIL_INTERPOLATIONS = st.sampled_from(sorted(MODES))
TENSOR_KINDS = [
    (interpolation, antialias)
    for interpolation in ("nearest", "bilinear", "bicubic", "lanczos")
    for antialias in (True, False)
    if antialias or interpolation != "lanczos"
]
SIDES = st.integers(min_value=1, max_value=90)
PAIRS = st.tuples(SIDES, SIDES)
SEEDS = st.integers(min_value=0, max_value=2**32 - 1)
IMAGES = st.builds(noise, SIDES, SIDES, st.sampled_from([1, 3]), SEEDS)
VERSIONS = pytest.mark.parametrize("functional", [v1, v2f], ids=["v1", "v2"])
needs_avx2 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="without AVX2 torchvision resizes uint8 tensors through float32, with other pixels",
)


def to_input(image: Image.Image, resize: Resize | None, crop: object) -> np.ndarray:
    spec = PreprocessingSpec(decode=DecodeRules(mode=image.mode), resize=resize, crop=crop)
    return SpecPreprocessing(spec).to_input(image)


def as_array(image: Image.Image) -> np.ndarray:
    array = np.array(image)
    return array[..., None] if array.ndim == 2 else array


@VERSIONS
@settings(max_examples=60)
@given(image=IMAGES, size=SIDES, crop=PAIRS, interpolation=PIL_INTERPOLATIONS)
def test_shorter_side_and_crop_equal_torchvision(functional, image, size, crop, interpolation):
    resized = functional.resize(image, [size], MODES[interpolation])
    expected = as_array(functional.center_crop(resized, list(crop)))

    got = to_input(image, Resize(size=size, interpolation=interpolation), crop)

    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, expected)


@VERSIONS
@settings(max_examples=60)
@given(image=IMAGES, size=PAIRS, interpolation=PIL_INTERPOLATIONS)
def test_exact_resize_equals_torchvision(functional, image, size, interpolation):
    expected = as_array(functional.resize(image, list(size), MODES[interpolation]))

    got = to_input(image, Resize(mode="exact", size=size, interpolation=interpolation), None)

    np.testing.assert_array_equal(got, expected)


@VERSIONS
@settings(max_examples=60)
@given(image=IMAGES, size=st.integers(1, 60), more=st.integers(1, 60), crop=PAIRS)
def test_resize_with_max_size_equals_torchvision(functional, image, size, more, crop):
    max_size = size + more
    short, long = sorted(image.size)
    # torchvision fails on a side of 0 pixels; the limits refuse such a picture.
    assume(max_size * size >= int(size * long / short))
    resized = functional.resize(image, [size], InterpolationMode.BILINEAR, max_size=max_size)
    expected = as_array(functional.center_crop(resized, list(crop)))

    got = to_input(image, Resize(size=size, max_size=max_size), crop)

    np.testing.assert_array_equal(got, expected)


@VERSIONS
@settings(max_examples=60)
@given(image=IMAGES, crop=PAIRS)
def test_crop_without_resize_equals_torchvision(functional, image, crop):
    expected = as_array(functional.center_crop(image, list(crop)))

    np.testing.assert_array_equal(to_input(image, None, crop), expected)


@needs_avx2
@settings(max_examples=60)
@given(
    image=IMAGES,
    size=PAIRS,
    kind=st.sampled_from(TENSOR_KINDS),
)
def test_tensor_resize_equals_torchvision_v2(image, size, kind):
    interpolation, antialias = kind
    tensor = v2f.pil_to_tensor(image)
    resized = v2f.resize(tensor, list(size), MODES[interpolation], antialias=antialias)
    expected = resized.permute(1, 2, 0).numpy()

    resize = Resize(
        mode="exact", size=size, interpolation=interpolation, backend="tensor", antialias=antialias
    )

    np.testing.assert_array_equal(to_input(image, resize, None), expected)


@settings(max_examples=60)
@given(image=st.builds(noise, SIDES, SIDES, st.just(3), SEEDS), crop=SIDES)
def test_normalised_input_equals_the_preset(image, crop):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preset = ImageClassification(crop_size=crop, resize_size=64, mean=mean, std=std)
    expected = preset(image).numpy()

    got = normalised(image, PreprocessingSpec.imagenet(resize=64, crop=crop))

    np.testing.assert_array_equal(got, expected)


def test_normalised_input_equals_the_v2_pipeline_for_grey():
    image = noise(61, 47, channels=1)
    pipeline = v2.Compose(
        [
            v2.Resize(32),
            v2.CenterCrop(28),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.1307,), (0.3081,)),
        ]
    )
    expected = pipeline(image).numpy()
    spec = PreprocessingSpec(
        decode=DecodeRules(mode="L"), resize=Resize(size=32), crop=28, mean=(0.1307,), std=(0.3081,)
    )

    got = normalised(image, spec)

    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_crop_of_225_from_256_starts_at_16():
    # (256 - 225) / 2 = 15.5, which Python's round takes to the even 16.
    columns = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    image = Image.fromarray(np.dstack([columns, columns.T, columns]))

    got = to_input(image, None, 225)

    assert got[0, 0].tolist() == [16, 16, 16]
    assert got[-1, -1].tolist() == [240, 240, 240]


def test_height_comes_before_width_everywhere():
    image = Image.new("RGB", (10, 10), (1, 2, 3))

    got = to_input(image, Resize(mode="exact", size=(4, 6)), None)

    assert got.shape == (4, 6, 3)
    assert to_input(image, None, (2, 5)).shape == (2, 5, 3)


def test_what_a_crop_adds_is_black_and_its_odd_pixel_is_right_and_below():
    image = Image.new("L", (1, 1), 200)

    got = to_input(image, None, (2, 4))

    assert got[..., 0].tolist() == [[0, 200, 0, 0], [0, 0, 0, 0]]
