"""A user's own preprocessing class: its interface, how it is loaded and called."""

import threading
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from PIL import Image
from pydantic import ValidationError

from preprocessing.errors import ImageRejected, PreprocessingBug, SpecError
from preprocessing.input_spec import InputSpec, problems_of
from preprocessing.isolated_source import load_isolated
from preprocessing.spec import DecodeRules


class Preprocessing(Protocol):
    """Turns one image into one model input. Called from several threads at once.

    Attributes:
        decode: How file bytes become the image.
        input_spec: What `to_input` returns.
    """

    decode: DecodeRules
    input_spec: InputSpec

    def to_input(self, image: Image.Image) -> np.ndarray:
        """Convert a decoded image to a C-contiguous array."""
        ...


USUAL_ATTRIBUTES = {
    "decode": "preprocessing.DecodeRules()",
    "input_shape": "(224, 224, 3)",
    "input_dtype": "'uint8'",
    "mean": "(0.485, 0.456, 0.406)",
    "std": "(0.229, 0.224, 0.225)",
    "to_input": "a method: PIL image to array (H, W, C)",
}
"""The attributes a user's class must have, with their usual values."""


class UserPreprocessing:
    """The preprocessing by a user's class; each thread has an instance, which may keep state."""

    def __init__(self, user_class: type, decode: DecodeRules, input_spec: InputSpec) -> None:
        self.decode = decode
        self.input_spec = input_spec
        self._user_class = user_class
        self._local = threading.local()

    def to_input(self, image: Image.Image) -> np.ndarray:
        """Call the class and check the result against its declaration.

        Raises:
            ImageRejected: The class rejects the image.
            PreprocessingBug: The class failed, or its result differs from its declaration.
        """
        name = self._user_class.__name__
        # User code can raise anything; only ImageRejected is the client's error.
        try:
            if not hasattr(self._local, "instance"):
                self._local.instance = self._user_class()
            array = self._local.instance.to_input(image)
        except ImageRejected:
            raise
        except Exception as error:
            raise PreprocessingBug(
                f"{name}.to_input raised {type(error).__name__} on a {image.size[0]}×"
                f"{image.size[1]} {image.mode} image: {error}"
            ) from error
        declared = (self.input_spec.shape, self.input_spec.dtype)
        actual = (np.shape(array), getattr(array, "dtype", type(array).__name__))
        if not isinstance(array, np.ndarray) or actual != declared:
            raise PreprocessingBug(
                f"{name}.to_input returned {actual[1]} of shape {actual[0]}, "
                f"the class declares {declared[1]} of shape {declared[0]}"
            )
        return np.ascontiguousarray(array)


def load_preprocessing(path: Path, class_name: str) -> Preprocessing:
    """Run a Python file and instantiate one of its classes without arguments.

    Raises:
        SpecError: The file cannot be run, the class does not exist or cannot be instantiated,
            or its attributes are not `USUAL_ATTRIBUTES`; one line.
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
        declared = user_class()
    except Exception as error:  # user code can raise anything
        raise SpecError(
            f"{where}: calling {class_name}() raised {_one_line(error)}; "
            "it must be callable with no arguments"
        ) from error
    if missing := [name for name in USUAL_ATTRIBUTES if not hasattr(declared, name)]:
        lines = "; ".join(f"{name} = {USUAL_ATTRIBUTES[name]}" for name in missing)
        raise SpecError(f"{where}: lacks {', '.join(missing)}; usual values: {lines}")
    if not isinstance(declared.decode, DecodeRules):
        raise SpecError(f"{where}: decode must be a preprocessing.DecodeRules")
    try:
        input_spec = InputSpec(
            shape=declared.input_shape,
            dtype=declared.input_dtype,
            mean=declared.mean,
            std=declared.std,
        )
    except ValidationError as error:
        raise SpecError(
            f"{where}: wrong input_shape, input_dtype, mean or std: {problems_of(error)}"
        ) from error
    return UserPreprocessing(user_class, declared.decode, input_spec)


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
