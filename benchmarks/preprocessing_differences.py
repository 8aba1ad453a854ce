"""Largest difference between the built-in steps and torchvision, by configuration."""

from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as v1
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.v2 import functional as v2

from benchmarks.preprocessing_report import Difference
from image_classifier.artifact.manifest import InputSpec
from importer.pixels_to_logits import PixelsToLogits
from preprocessing import DecodeRules, PreprocessingSpec, Resize, SpecPreprocessing
from preprocessing.spec import Interpolation

IMAGES = 200
TENSOR_KINDS: tuple[tuple[Interpolation, bool], ...] = (
    ("nearest", False),
    ("bilinear", True),
    ("bilinear", False),
    ("bicubic", True),
    ("bicubic", False),
    ("lanczos", True),
)
Array = np.ndarray[Any, np.dtype[Any]]
Reference = Callable[[Image.Image], Array]


def differences() -> list[Difference]:
    """Compare every configuration on the same random pictures of 5 to 120 pixels a side."""
    return [
        Difference(
            configuration=name,
            against=against,
            images=IMAGES,
            max_difference=max(
                float(np.abs(ours(image).astype(np.float64) - reference(image)).max())
                for image in _images(mode)
            ),
        )
        for name, against, mode, ours, reference in _cases()
    ]


def _images(mode: str) -> Iterator[Image.Image]:
    random = np.random.default_rng(20)
    for _ in range(IMAGES):
        height, width = random.integers(5, 121, 2)
        array = random.integers(0, 256, (height, width, 3), np.uint8)
        yield Image.fromarray(array if mode == "RGB" else array[..., 0])


def _cases() -> Iterator[tuple[str, str, str, Reference, Reference]]:
    """(configuration, against, mode, ours, reference) of each comparison."""
    for api, functional in (("v1, PIL", v1), ("v2, PIL", v2)):
        for mode in ("RGB", "L"):
            for resize in _pil_resizes():
                name = f"{resize.mode} {resize.size}, {resize.interpolation}, {mode}"
                if resize.max_size:
                    name = f"{name}, max_size {resize.max_size}"
                yield name, api, mode, _ours(resize, mode), _pil(functional, resize)
    for interpolation, antialias in TENSOR_KINDS:
        resize = Resize(size=33, interpolation=interpolation, backend="tensor", antialias=antialias)
        name = f"tensor, {interpolation}, antialias {'on' if antialias else 'off'}"
        yield name, "v2, uint8 tensor", "RGB", _ours(resize, "RGB"), _tensor(resize)
    yield "normalised, mean and std of ImageNet", "v1, PIL", "RGB", _normalised, _preset


def _pil_resizes() -> Iterator[Resize]:
    for interpolation in get_args(Interpolation):
        yield Resize(size=33, interpolation=interpolation)
        yield Resize(mode="exact", size=(33, 47), interpolation=interpolation)
    yield Resize(size=33, max_size=40)


def _ours(resize: Resize, mode: str) -> Reference:
    decode = DecodeRules.model_validate({"mode": mode})
    return SpecPreprocessing(
        PreprocessingSpec(decode=decode, resize=resize, crop=(30, 41))
    ).to_input


def _pil(functional: Any, resize: Resize) -> Reference:
    size = list(resize.size) if isinstance(resize.size, tuple) else [resize.size]
    mode = InterpolationMode(resize.interpolation)

    def reference(image: Image.Image) -> Array:
        resized = functional.resize(image, size, mode, max_size=resize.max_size)
        cropped = np.asarray(functional.center_crop(resized, [30, 41]))
        return cropped if cropped.ndim == 3 else cropped[..., None]

    return reference


def _tensor(resize: Resize) -> Reference:
    mode = InterpolationMode(resize.interpolation)

    def reference(image: Image.Image) -> Array:
        tensor = v2.pil_to_tensor(image)
        resized = v2.resize(tensor, [resize.size], mode, antialias=resize.antialias)
        cropped: torch.Tensor = v2.center_crop(resized, [30, 41])
        array: Array = cropped.permute(1, 2, 0).numpy()
        return array

    return reference


_SPEC = PreprocessingSpec.imagenet(resize=64, crop=56)


def normalised(image: Image.Image, spec: PreprocessingSpec) -> Array:
    """What a network sees of an image, float32 (C, H, W): normalised by what is exported."""
    preprocessing = SpecPreprocessing(spec)
    batch = torch.from_numpy(preprocessing.to_input(image)[None].copy())
    pixels: Array = PixelsToLogits(nn.Identity(), InputSpec.of(preprocessing))(batch)[0].numpy()
    return pixels


def _normalised(image: Image.Image) -> Array:
    return normalised(image, _SPEC)


def _preset(image: Image.Image) -> Array:
    preset = ImageClassification(crop_size=56, resize_size=64, mean=_SPEC.mean, std=_SPEC.std)
    array: Array = preset(image).numpy()
    return array
