"""A user's own preprocessing class: what it must offer, how it is loaded, how it is called."""

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
        input_dtype: "uint8": the graph normalises. "float32": the class has normalised.
        mean: Means per channel on the [0, 1] scale, in channel order; None with float32.
        std: Standard deviations on the same scale; None with float32.
    """

    @property
    def decode(self) -> DecodeRules: ...  # noqa: D102  (Attributes above)

    @property
    def input_shape(self) -> tuple[int, int, int]: ...  # noqa: D102

    @property
    def input_dtype(self) -> Literal["uint8", "float32"]: ...  # noqa: D102

    @property
    def mean(self) -> tuple[float, ...] | None: ...  # noqa: D102

    @property
    def std(self) -> tuple[float, ...] | None: ...  # noqa: D102

    def to_input(self, image: Image.Image) -> np.ndarray:
        """Convert a decoded image to an array of `input_shape` and `input_dtype`."""
        ...


def image_to_input(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Preprocess a decoded image and check the result against what the class declares.

    Returns:
        Array of `preprocessing.input_shape` and `preprocessing.input_dtype`, C-contiguous.

    Raises:
        ImageRejected: The class rejects the image.
        PreprocessingBug: The class failed or returned something else than it declares.
    """
    name = type(preprocessing).__name__
    # A user's code can raise anything; only an ImageRejected is the client's error.
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


USUAL = {
    "decode": "preprocessing.DecodeRules()",
    "input_shape": "(224, 224, 3)",
    "input_dtype": "'uint8'",
    "mean": "(0.485, 0.456, 0.406)",
    "std": "(0.229, 0.224, 0.225)",
    "to_input": "a method: PIL image to array (H, W, C)",
}
"""What a user's class has to have, with the usual value."""


def load_preprocessing(path: Path, class_name: str) -> Preprocessing:
    """Run a Python file and make an instance of one of its classes, called with no arguments.

    Pillow's LOAD_TRUNCATED_IMAGES is False afterwards.

    Raises:
        SpecError: The file does not run, has no such class, the class cannot be made, or
            its attributes are not those of `Preprocessing`; one line.
    """
    where = f"{path}:{class_name}"
    user_class = getattr(_run_file(path), class_name, None)
    if not isinstance(user_class, type):
        raise SpecError(f"{where}: there is no such class in the file; check its name")
    # The constructor is the user's code: whatever it raises, the operator needs one line.
    try:
        preprocessing = user_class()
    except Exception as error:
        raise SpecError(
            f"{where}: calling {class_name}() raised {_one_line(error)}; "
            "it must be callable with no arguments"
        ) from error
    # What training code often sets for its whole process: here, files that are cut short would be
    # classified by what is left of them.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    if problem := _first_problem(preprocessing):
        raise SpecError(f"{where}: {problem}")
    with contextlib.suppress(AttributeError):  # of a class with slots
        object.__setattr__(preprocessing, "to_input", _in_each_thread(user_class))
    checked: Preprocessing = preprocessing
    return checked


def _in_each_thread(user_class: Callable[[], Preprocessing]) -> Callable[[Image.Image], np.ndarray]:
    """Return `to_input` of an object for each thread: it may keep what it works on in itself."""
    own = threading.local()

    def to_input(image: Image.Image) -> np.ndarray:
        if not hasattr(own, "preprocessing"):
            own.preprocessing = user_class()
        array: np.ndarray = own.preprocessing.to_input(image)
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
    """Name the first thing that keeps an object from being a `Preprocessing`, or None."""
    if lacking := [name for name in USUAL if not hasattr(candidate, name)]:
        lines = "; ".join(f"{name} = {USUAL[name]}" for name in lacking)
        return f"lacks {', '.join(lacking)}; usual are: {lines}"
    if not isinstance(candidate.decode, DecodeRules):
        return "decode must be a preprocessing.DecodeRules"
    shape, dtype = candidate.input_shape, candidate.input_dtype
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
    mean, std = candidate.mean, candidate.std
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
