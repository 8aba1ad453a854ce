"""A user's own preprocessing class: its interface, how it is loaded and called."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image, ImageFile

from preprocessing.errors import ImageRejected, PreprocessingBug, SpecError
from preprocessing.isolated_source import load_isolated
from preprocessing.spec import DecodeRules


class Preprocessing(Protocol):
    """Turns one image into one model input. Called from several threads at once.

    Attributes:
        decode: How file bytes become the image.
        input_shape: (H, W, C) of the input.
        input_dtype: "uint8" if the graph normalises, "float32" if the class does.
        mean: Means per channel on the [0, 1] scale, in channel order; None with float32.
        std: Standard deviations on the same scale; None with float32.
    """

    decode: DecodeRules
    input_shape: tuple[int, int, int]
    input_dtype: Literal["uint8", "float32"]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    def to_input(self, image: Image.Image) -> np.ndarray:
        """Convert a decoded image to an array of `input_shape` and `input_dtype`."""
        ...


def image_to_input(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Preprocess a decoded image and check the result against the class's declaration.

    Returns:
        Array of `preprocessing.input_shape` and `preprocessing.input_dtype`, C-contiguous.

    Raises:
        ImageRejected: The class rejects the image.
        PreprocessingBug: The class failed, or its result differs from its declaration.
    """
    name = type(preprocessing).__name__
    # User code can raise anything; only ImageRejected is the client's error.
    try:
        array = preprocessing.to_input(image)
    except ImageRejected:
        raise
    except Exception as error:
        raise PreprocessingBug(
            f"{name}.to_input raised {type(error).__name__} on a {image.size[0]}×{image.size[1]} "
            f"{image.mode} image: {error}"
        ) from error
    declared = (tuple(preprocessing.input_shape), preprocessing.input_dtype)
    actual = (np.shape(array), getattr(array, "dtype", type(array).__name__))
    if not isinstance(array, np.ndarray) or actual != declared:
        raise PreprocessingBug(
            f"{name}.to_input returned {actual[1]} of shape {actual[0]}, "
            f"the class declares {declared[1]} of shape {declared[0]}"
        )
    return np.ascontiguousarray(array)


USUAL_ATTRIBUTES = {
    "decode": "preprocessing.DecodeRules()",
    "input_shape": "(224, 224, 3)",
    "input_dtype": "'uint8'",
    "mean": "(0.485, 0.456, 0.406)",
    "std": "(0.229, 0.224, 0.225)",
    "to_input": "a method: PIL image to array (H, W, C)",
}
"""The attributes a user's class must have, with their usual values."""


def load_preprocessing(path: Path, class_name: str) -> Preprocessing:
    """Run a Python file and instantiate one of its classes without arguments.

    Sets Pillow's LOAD_TRUNCATED_IMAGES to False.

    Raises:
        SpecError: The file cannot be run, the class does not exist or cannot be instantiated,
            or its attributes are not those of `Preprocessing`; one line.
    """
    where = f"{path}:{class_name}"
    module = _run_file(path)
    user_class = getattr(module, class_name, None)
    if not isinstance(user_class, type):
        defined = [
            name
            for name, item in vars(module).items()
            if isinstance(item, type) and item.__module__ == module.__name__
        ]
        raise SpecError(
            f"{where}: there is no such class in the file; it defines "
            f"{', '.join(defined) or 'none'}"
        )
    try:
        preprocessing: Preprocessing = user_class()
    except Exception as error:  # user code can raise anything
        raise SpecError(
            f"{where}: calling {class_name}() raised {_one_line(error)}; "
            "it must be callable with no arguments"
        ) from error
    # Training code often sets this to True; truncated files would then be classified.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    if problem := _first_problem(preprocessing):
        raise SpecError(f"{where}: {problem}")
    with contextlib.suppress(AttributeError):  # raised by a class with slots
        object.__setattr__(preprocessing, "to_input", _per_thread_to_input(user_class))
    return preprocessing


def _per_thread_to_input(
    user_class: Callable[[], Preprocessing],
) -> Callable[[Image.Image], np.ndarray]:
    """Return a `to_input` with one instance per thread, so that instances may keep state."""
    local = threading.local()

    def to_input(image: Image.Image) -> np.ndarray:
        if not hasattr(local, "preprocessing"):
            local.preprocessing = user_class()
        array: np.ndarray = local.preprocessing.to_input(image)
        return array

    return to_input


def _run_file(path: Path) -> ModuleType:
    try:
        path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    if path.suffix != ".py":
        raise SpecError(f"{path}: is not a Python file; its name must end in .py")
    try:
        return load_isolated(path)
    except Exception as error:  # anything the user's module does at import
        raise SpecError(f"{path}: importing it raised {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _first_problem(candidate: Any) -> str | None:
    """Describe the first reason why an object is not a `Preprocessing`, or return None."""
    if missing := [name for name in USUAL_ATTRIBUTES if not hasattr(candidate, name)]:
        lines = "; ".join(f"{name} = {USUAL_ATTRIBUTES[name]}" for name in missing)
        return f"lacks {', '.join(missing)}; usual values: {lines}"
    if not isinstance(candidate.decode, DecodeRules):
        return "decode must be a preprocessing.DecodeRules"
    shape, dtype = candidate.input_shape, candidate.input_dtype
    mean, std = candidate.mean, candidate.std
    if not (
        isinstance(shape, tuple)
        and len(shape) == 3
        and all(type(side) is int and side > 0 for side in shape)
    ):
        return f"input_shape must be (H, W, C), three positive whole numbers, got {shape!r}"
    if shape[0] in (1, 3) and shape[2] not in (1, 3):
        return f"input_shape {shape} looks like (C, H, W); it must be (H, W, C), as must the inputs"
    if dtype not in ("uint8", "float32"):
        return f"input_dtype must be 'uint8' or 'float32', got {dtype!r}"
    if not callable(candidate.to_input):
        return "to_input must be a method"
    if dtype == "float32":
        if mean is None and std is None:
            return None
        return "mean and std must be None with float32: to_input itself normalises"
    channels = shape[2]
    for name, values in (("mean", mean), ("std", std)):
        if not (
            isinstance(values, tuple)
            and len(values) == channels
            and all(isinstance(value, (int, float)) for value in values)
        ):
            return f"{name} must be a tuple of {channels} numbers with uint8, got {values!r}"
        if name == "std" and min(values) <= 0:
            return f"std must be positive, got {values}"
    return None
