"""The preprocessing of a model: read from a spec, copied from the user's class, or published."""

import contextlib
import shutil
from pathlib import Path

from PIL import Image

from image_classifier.artifact.format import SERVING_REQUIREMENTS_NAME
from image_classifier.artifact.manifest import TORCHVISION, PreprocessingEntry
from importer.captured_source import capture_source
from importer.errors import ImportRefused
from importer.failures import one_line
from importer.options import (
    PREPROCESSING_FORMS,
    SPEC_SUFFIXES,
    ImportOptions,
    split_published,
)
from importer.serving_requirements import check_serving_packages
from importer.torchvision_models import TorchvisionWeights, torchvision_meta
from preprocessing import (
    Preprocessing,
    PreprocessingBug,
    PreprocessingSpec,
    SpecError,
    SpecPreprocessing,
    load_preprocessing,
)
from preprocessing.errors import ImageRejected
from preprocessing.user_class import image_to_input

OWN_PREPROCESSING = "preprocessing/own"


def capture_preprocessing(
    options: ImportOptions, published: TorchvisionWeights | None, root: Path
) -> tuple[Preprocessing, PreprocessingEntry]:
    """Load a preprocessing; a class of the user's is copied into the artifact first.

    Args:
        options: Without a preprocessing, the one published with the weights is meant. The device
            decides which packages the bento has.
        published: The weights of the model, where torchvision published them.
        root: The staging directory of the artifact.

    Returns:
        The preprocessing, and what the manifest says of it.

    Raises:
        OperatorError: None of these forms, or the file is not what it should be.
    """
    text, serving_requirements = options.preprocessing, options.serving_requirements
    origin, _, class_name = (text or "").rpartition(":")
    if serving_requirements is not None and not origin.endswith(".py"):
        raise ImportRefused(
            f"--serving-requirements {serving_requirements}: belongs to a preprocessing class; "
            "leave it out, what a spec needs is in the bento"
        )
    if text is None:
        if published is None:
            raise ImportRefused(
                "--preprocessing is not given and the weights are not published by torchvision; "
                f"expected {PREPROCESSING_FORMS}"
            )
        return _from_spec(published.preprocessing)
    if origin == TORCHVISION:
        return _from_spec(torchvision_meta(*split_published(text)).preprocessing)
    if text.endswith(SPEC_SUFFIXES):
        return _from_spec(PreprocessingSpec.from_file(Path(text)))
    source = Path(origin)
    captured = capture_source(source)
    check_serving_packages(captured.imports, options.device, serving_requirements)
    captured.copy_to(root / OWN_PREPROCESSING)
    if serving_requirements is not None:
        shutil.copyfile(serving_requirements, root / SERVING_REQUIREMENTS_NAME)
    name = f"{OWN_PREPROCESSING}/{source.name}"
    copy = (root / name).absolute()
    try:
        preprocessing = _load_copy(copy, class_name)
    except SpecError as error:  # names the copy, of which nobody knows
        raise ImportRefused(str(error).replace(str(copy), str(source))) from error
    return preprocessing, PreprocessingEntry(
        file=name, class_name=class_name, decode=preprocessing.decode
    )


def _from_spec(spec: PreprocessingSpec) -> tuple[Preprocessing, PreprocessingEntry]:
    preprocessing = SpecPreprocessing(spec)
    return preprocessing, PreprocessingEntry(spec=spec, decode=preprocessing.decode)


def _load_copy(file: Path, class_name: str) -> Preprocessing:
    """Load the copy that will serve, where nothing of the original's surroundings is found.

    Raises:
        OperatorError: The class cannot be loaded, or opens a file that was not copied.
    """
    file = file.absolute()
    with contextlib.chdir(file.parents[1]):  # files named relative to it are not found here either
        try:
            preprocessing = load_preprocessing(file, class_name)
            with contextlib.suppress(ImageRejected):
                image_to_input(Image.new(preprocessing.decode.mode, (640, 480)), preprocessing)
        except (SpecError, PreprocessingBug) as error:
            cause = error.__cause__
            if isinstance(cause, OSError):
                name = Path(str(cause.filename)).name if cause.filename else one_line(cause)
                raise ImportRefused(
                    f"preprocessing {file.name}: cannot open {name}; it may open files only as "
                    "Path(__file__).parent / 'NAME', with the name as one string, so that they "
                    "travel with it"
                ) from error
            if isinstance(error, SpecError):
                raise
            # Other failures on a blank image prove nothing; the golden images test the class.
    return preprocessing
