"""The built-in steps against torchvision itself, bit for bit."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as v1
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.v2 import functional as v2f

from image_classifier.artifact.manifest import InputSpec
from importer.pixels_to_logits import PixelsToLogits
from preprocessing import DecodeRules, PreprocessingSpec, Resize, SpecPreprocessing, to_input
from tests.preprocessing.files import LIMITS, noise
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
VERSIONS = pytest.mark.parametrize("functional", [v1, v2f], ids=["v1", "v2"])
needs_avx2 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="without AVX2 torchvision resizes uint8 tensors through float32, with other pixels",
)


@st.composite
def resizes(draw: st.DrawFn) -> Resize | None:
    """Any resize of a PIL image, or none."""
    interpolation = draw(st.sampled_from(PIL_KINDS))
    match draw(st.sampled_from(["none", "exact", "shorter_side", "max_size"])):
        case "exact":
            return Resize(mode="exact", size=draw(PAIRS), interpolation=interpolation)
        case "shorter_side":
            return Resize(size=draw(SIDES), interpolation=interpolation)
        case "max_size":
            size = draw(SIDES)
            more = draw(st.integers(1, 60))
            return Resize(size=size, max_size=size + more, interpolation=interpolation)
    return None


def input_of(image: Image.Image, resize: Resize | None, crop: object) -> np.ndarray:
    spec = PreprocessingSpec(decode=DecodeRules(mode=image.mode), resize=resize, crop=crop)
    return SpecPreprocessing(spec).to_input(image)


def normalised(image: Image.Image, spec: PreprocessingSpec) -> np.ndarray:
    """What a network sees, float32 (C, H, W): normalised by what is exported."""
    preprocessing = SpecPreprocessing(spec)
    batch = torch.from_numpy(preprocessing.to_input(image)[None].copy())
    return PixelsToLogits(torch.nn.Identity(), InputSpec.of(preprocessing))(batch)[0].numpy()


@VERSIONS
@settings(max_examples=150)
@given(image=IMAGES, resize=resizes(), crop=PAIRS)
def test_resize_and_crop_equal_torchvision(functional, image, resize, crop):
    expected = image
    if resize is not None:
        size = list(resize.size) if resize.mode == "exact" else [resize.size]
        short, long = sorted(image.size)
        if resize.max_size is not None and resize.max_size * resize.size < int(
            resize.size * long / short
        ):
            return  # torchvision fails on a side of 0 pixels; the limits refuse such an image
        interpolation = InterpolationMode[resize.interpolation.upper()]
        expected = functional.resize(image, size, interpolation, max_size=resize.max_size)
    expected = np.array(functional.center_crop(expected, list(crop)))

    got = input_of(image, resize, crop)

    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, expected.reshape(got.shape))


@needs_avx2
@settings(max_examples=100)
@given(image=IMAGES, size=PAIRS, kind=st.sampled_from(TENSOR_KINDS))
def test_tensor_resize_equals_torchvision_v2(image, size, kind):
    interpolation, antialias = kind
    resized = v2f.resize(
        v2f.pil_to_tensor(image),
        list(size),
        InterpolationMode[interpolation.upper()],
        antialias=antialias,
    )
    resize = Resize(
        mode="exact", size=size, interpolation=interpolation, backend="tensor", antialias=antialias
    )

    got = input_of(image, resize, None)

    np.testing.assert_array_equal(got, resized.permute(1, 2, 0).numpy())


def test_normalised_inputs_equal_the_preset_and_a_v2_pipeline_for_grey():
    colour, grey = noise(81, 67), noise(61, 47, channels=1)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preset = ImageClassification(crop_size=56, resize_size=64, mean=mean, std=std)
    pipeline = v2.Compose(
        [
            v2.Resize(32),
            v2.CenterCrop(28),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.1307,), (0.3081,)),
        ]
    )
    spec = PreprocessingSpec(
        decode=DecodeRules(mode="L"), resize=Resize(size=32), crop=28, mean=(0.1307,), std=(0.3081,)
    )

    np.testing.assert_array_equal(
        normalised(colour, PreprocessingSpec.imagenet(resize=64, crop=56)), preset(colour).numpy()
    )
    np.testing.assert_allclose(normalised(grey, spec), pipeline(grey).numpy(), rtol=0, atol=1e-6)


def test_crop_of_225_from_256_starts_at_16():
    # (256 - 225) / 2 = 15.5, which Python's round takes to the even 16.
    columns = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    image = Image.fromarray(np.dstack([columns, columns.T, columns]))

    got = input_of(image, None, 225)

    assert got[0, 0].tolist() == [16, 16, 16]
    assert got[-1, -1].tolist() == [240, 240, 240]


def test_height_comes_before_width_everywhere():
    image = Image.new("RGB", (10, 10), (1, 2, 3))

    assert input_of(image, Resize(mode="exact", size=(4, 6)), None).shape == (4, 6, 3)
    assert input_of(image, None, (2, 5)).shape == (2, 5, 3)


def test_what_a_crop_adds_is_black_and_its_odd_pixel_is_right_and_below():
    got = input_of(Image.new("L", (1, 1), 200), None, (2, 4))

    assert got[..., 0].tolist() == [[0, 200, 0, 0], [0, 0, 0, 0]]


SPECS = {
    "squeezenet1_1_imagenet": PreprocessingSpec.imagenet(),
    "mobilenet_v2_tfqat_imagenet": PreprocessingSpec.imagenet(
        crop=225, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    ),
    "resnet20_cifar10": PreprocessingSpec.imagenet(resize=32, crop=32),
    "mnist_cnn_tiny": PreprocessingSpec(
        decode=DecodeRules(mode="L"), resize=Resize(size=28), crop=28
    ),
}


@needs_shared_data
@pytest.mark.parametrize("golden", sorted(path.name for path in (SHARED / "golden").glob("*.json")))
def test_crops_of_real_photos_have_the_digests_of_the_reference_in_any_thread(golden):
    model, folder = golden.split(".")[:2]
    preprocessing = SpecPreprocessing(SPECS[model])
    images = json.loads((SHARED / "golden" / golden).read_text())["images"]

    def digest(name: str) -> str:
        data = (SHARED / "images" / folder / name).read_bytes()
        return hashlib.sha256(to_input(data, preprocessing, LIMITS)).hexdigest()

    with ThreadPoolExecutor(4) as pool:
        got = dict(zip(images, pool.map(digest, images), strict=True))

    assert got == {name: image["crop_sha256"] for name, image in images.items()}
