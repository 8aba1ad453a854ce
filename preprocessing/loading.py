"""A user's own preprocessing class, loaded from its file."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from preprocessing.errors import SpecError
from preprocessing.interface import Preprocessing
from preprocessing.rules import DecodeRules


def load_preprocessing(path: Path, class_name: str) -> Preprocessing:
    """Run a Python file and make an instance of one of its classes, called with no arguments.

    Raises:
        SpecError: The file does not run, has no such class, the class cannot be made, or
            its attributes are not those of `Preprocessing`; one line.
    """
    where = f"{path}:{class_name}"
    found = getattr(_module(path), class_name, None)
    if not isinstance(found, type):
        raise SpecError(f"{where}: there is no such class in the file; check its name")
    # The constructor is the user's code: whatever it raises, the operator needs one line.
    try:
        preprocessing = found()
    except Exception as error:
        raise SpecError(
            f"{where}: calling {class_name}() raised {_one_line(error)}; "
            "it must be callable with no arguments"
        ) from error
    if problem := _problem(preprocessing):
        raise SpecError(f"{where}: {problem}")
    checked: Preprocessing = preprocessing
    return checked


def _module(path: Path) -> ModuleType:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    name = f"preprocessing_of_{path.stem}_{digest[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SpecError(f"{path}: is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # anything the user's module does at import
        del sys.modules[name]
        raise SpecError(f"{path}: importing it raised {_one_line(error)}") from error
    return module


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _problem(candidate: object) -> str | None:
    """First thing that keeps an object from being a `Preprocessing`, or None."""
    if not isinstance(getattr(candidate, "decode", None), DecodeRules):
        return "decode must be a preprocessing.DecodeRules"
    shape = getattr(candidate, "input_shape", None)
    if not (
        isinstance(shape, tuple)
        and len(shape) == 3
        and all(type(side) is int and side > 0 for side in shape)
    ):
        return f"input_shape must be (H, W, C), three positive whole numbers, got {shape!r}"
    dtype = getattr(candidate, "input_dtype", None)
    if dtype not in ("uint8", "float32"):
        return f"input_dtype must be 'uint8' or 'float32', got {dtype!r}"
    if not callable(getattr(candidate, "to_input", None)):
        return "to_input(image) is missing"
    mean, std = getattr(candidate, "mean", ...), getattr(candidate, "std", ...)
    return _normalisation_problem(dtype, shape[2], mean, std)


def _normalisation_problem(dtype: str, channels: int, mean: object, std: object) -> str | None:
    if dtype == "float32":
        if mean is None and std is None:
            return None
        return "mean and std must be None with float32: to_input itself normalises"
    for name, values in (("mean", mean), ("std", std)):
        if not (
            isinstance(values, tuple)
            and len(values) == channels
            and all(isinstance(value, (int, float)) for value in values)
        ):
            found = "nothing" if values is ... else repr(values)
            return f"{name} must be a tuple of {channels} numbers with uint8, got {found}"
        if name == "std" and min(values) <= 0:
            return f"std must be positive, got {values}"
    return None
