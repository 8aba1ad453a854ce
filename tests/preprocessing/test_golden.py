"""Crops of real photos against the digests of the reference pipeline."""

import hashlib
import json

import pytest

from preprocessing import DecodeRules, PreprocessingSpec, Resize, SpecPreprocessing, to_input
from tests.preprocessing.files import LIMITS
from tests.shared_data import SHARED, needs_shared_data

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
GOLDENS = sorted(path.name for path in (SHARED / "golden").glob("*.json"))


@needs_shared_data
@pytest.mark.parametrize("golden", GOLDENS)
def test_every_crop_has_the_digest_of_the_reference(golden):
    model, folder = golden.split(".")[:2]
    preprocessing = SpecPreprocessing(SPECS[model])
    expected = {
        name: image["crop_sha256"]
        for name, image in json.loads((SHARED / "golden" / golden).read_text())["images"].items()
    }

    got = {
        name: hashlib.sha256(
            to_input((SHARED / "images" / folder / name).read_bytes(), preprocessing, LIMITS)
        ).hexdigest()
        for name in expected
    }

    assert got == expected
