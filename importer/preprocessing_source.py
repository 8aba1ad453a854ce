"""The preprocessing a model is imported with, captured in the draft."""

import shutil
from pathlib import Path

from artifact.architectures import TORCHVISION
from artifact.checkpoints_torchvision import TorchvisionWeights, torchvision_meta
from artifact.manifest import BUILT_IN_PREPROCESSING, PreprocessingEntry
from artifact.opened import built_in_sources, load_own_preprocessing
from importer.errors import ImportRefused
from preprocessing import (
    Preprocessing,
    PreprocessingSpec,
    SpecPreprocessing,
)

OWN_PREPROCESSING = "preprocessing/own"


def capture_preprocessing(text: str, draft: Path) -> tuple[Preprocessing, PreprocessingEntry]:
    """Copy the source of a preprocessing into the draft and load it from there.

    Args:
        text: A spec file (YAML or JSON), `PATH.py:CLASS`, or `torchvision:NAME[/WEIGHTS]` for
            what torchvision publishes with these weights ("DEFAULT" where they are left out).
        draft: Directory of the artifact in the making.

    Raises:
        ImportRefused: None of these forms.
        OperatorError: The file is not what it should be.
    """
    origin, _, class_name = text.rpartition(":")
    if origin == TORCHVISION:
        network, _, weights = class_name.partition("/")
        return capture_spec(published_spec(torchvision_meta(network, weights or "DEFAULT")), draft)
    if origin.endswith(".py"):
        return capture_class(Path(origin), class_name, draft)
    if Path(text).suffix in (".yaml", ".yml", ".json"):
        return capture_spec(PreprocessingSpec.from_file(Path(text)), draft)
    raise ImportRefused(
        f"preprocessing {text!r}: expected a spec file (.yaml, .json), PATH.py:CLASS or "
        "torchvision:NAME/WEIGHTS"
    )


def published_spec(published: TorchvisionWeights) -> PreprocessingSpec:
    """The preprocessing that torchvision publishes with its weights."""
    resize = {"size": published.resize_size, "interpolation": published.interpolation}
    return PreprocessingSpec.model_validate(
        {
            "resize": resize,
            "crop": published.crop_size,
            "mean": published.mean,
            "std": published.std,
        }
    )


def capture_spec(spec: PreprocessingSpec, draft: Path) -> tuple[Preprocessing, PreprocessingEntry]:
    """The built-in preprocessing with this spec."""
    _capture_built_in(draft)
    preprocessing = SpecPreprocessing(spec)
    return preprocessing, entry_of(preprocessing, spec=spec)


def capture_class(
    source: Path, class_name: str, draft: Path
) -> tuple[Preprocessing, PreprocessingEntry]:
    """The user's own class; what serves is the copy in the artifact."""
    if not source.is_file():
        raise ImportRefused(f"preprocessing {source}: no such file; expected PATH.py:CLASS")
    _capture_built_in(draft)
    name = f"{OWN_PREPROCESSING}/{source.name}"
    (draft / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, draft / name)
    preprocessing = load_own_preprocessing(draft / name, class_name)
    return preprocessing, entry_of(preprocessing, file=name, class_name=class_name)


def _capture_built_in(draft: Path) -> None:
    # Also beside a user's own class: decoding is always the built-in package's.
    target = draft / BUILT_IN_PREPROCESSING
    target.mkdir(parents=True, exist_ok=True)
    for name, source in built_in_sources().items():
        (target / name).write_bytes(source)


def entry_of(
    preprocessing: Preprocessing,
    *,
    spec: PreprocessingSpec | None = None,
    file: str | None = None,
    class_name: str | None = None,
) -> PreprocessingEntry:
    """What the manifest says of a preprocessing, and of where it comes from."""
    return PreprocessingEntry(
        spec=spec,
        file=file,
        class_name=class_name,
        decode=preprocessing.decode,
        input_shape=preprocessing.input_shape,
        input_dtype=preprocessing.input_dtype,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
