"""The preprocessing of a model: read from a spec, copied from the user's class, or published."""

from pathlib import Path

from image_classifier.artifact.manifest import TORCHVISION, PreprocessingEntry
from importer.captured_source import capture_source
from importer.errors import ImportRefused
from importer.options import PREPROCESSING_FORMS, SPEC_SUFFIXES
from importer.torchvision_models import TorchvisionWeights, torchvision_meta
from preprocessing import Preprocessing, PreprocessingSpec, SpecPreprocessing, load_preprocessing
from preprocessing.errors import SpecError

OWN_PREPROCESSING = "preprocessing/own"


def capture_preprocessing(
    text: str | None, published: TorchvisionWeights | None, root: Path
) -> tuple[Preprocessing, PreprocessingEntry]:
    """Load a preprocessing; a class of the user's is copied into the artifact first.

    Args:
        text: A spec file (YAML or JSON), `PATH.py:CLASS`, or `torchvision:NAME[/WEIGHTS]` for
            what torchvision publishes with these weights ("DEFAULT" where they are left out);
            None for what was published with the model's own weights.
        published: The weights of the model, where torchvision published them.
        root: The staging directory of the artifact.

    Returns:
        The preprocessing, and what the manifest says of it.

    Raises:
        OperatorError: None of these forms, or the file is not what it should be.
    """
    if text is None:
        if published is None:
            raise ImportRefused(
                "--preprocessing is not given and the weights are not published by torchvision; "
                f"expected {PREPROCESSING_FORMS}"
            )
        return _from_spec(published_spec(published))
    origin, _, class_name = text.rpartition(":")
    if origin == TORCHVISION:
        network, _, weights = class_name.partition("/")
        return _from_spec(published_spec(torchvision_meta(network, weights or "DEFAULT")))
    if text.endswith(SPEC_SUFFIXES):
        return _from_spec(PreprocessingSpec.from_file(Path(text)))
    if not origin.endswith(".py"):
        raise ImportRefused(f"preprocessing {text!r}: expected {PREPROCESSING_FORMS}")
    return _from_class(Path(origin), class_name, root)


def published_spec(published: TorchvisionWeights) -> PreprocessingSpec:
    """Return the preprocessing that torchvision publishes with its weights."""
    resize = {"size": published.resize_size, "interpolation": published.interpolation}
    return PreprocessingSpec.model_validate(
        {
            "resize": resize,
            "crop": published.crop_size,
            "mean": published.mean,
            "std": published.std,
        }
    )


def _from_spec(spec: PreprocessingSpec) -> tuple[Preprocessing, PreprocessingEntry]:
    preprocessing = SpecPreprocessing(spec)
    return preprocessing, PreprocessingEntry(spec=spec, decode=preprocessing.decode)


def _from_class(
    source: Path, class_name: str, root: Path
) -> tuple[Preprocessing, PreprocessingEntry]:
    if not source.is_file():
        raise ImportRefused(f"preprocessing {source}: no such file; expected PATH.py:CLASS")
    name = f"{OWN_PREPROCESSING}/{source.name}"
    capture_source(source).copy_to(root / OWN_PREPROCESSING)
    try:
        preprocessing = load_preprocessing(root / name, class_name)  # the copy: it will serve
    except SpecError as error:
        raise ImportRefused(str(error).replace(str(root / name), str(source))) from error
    return preprocessing, PreprocessingEntry(
        file=name, class_name=class_name, decode=preprocessing.decode
    )
