"""The preprocessing of a model: a spec, a copy of the user's class, or the published one."""

import contextlib
import shutil
from pathlib import Path

from PIL import Image

from image_classifier.artifact.format import SERVING_REQUIREMENTS_NAME
from image_classifier.artifact.manifest import TORCHVISION, PreprocessingEntry
from importer.captured_source import capture_source
from importer.errors import ImportRefused
from importer.failures import one_line
from importer.options import PREPROCESSING_FORMS, SPEC_SUFFIXES, ImportOptions, split_published
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

OWN_PREPROCESSING = "preprocessing/own"


def capture_preprocessing(
    options: ImportOptions, published: TorchvisionWeights | None, root: Path
) -> tuple[Preprocessing, PreprocessingEntry]:
    """Load the preprocessing; a user's class is first copied into the artifact.

    Args:
        options: Without a preprocessing, the published one is used. The device decides which
            packages the bento has.
        published: torchvision's description of the weights, if it published them.
        root: The staging directory of the artifact.

    Returns:
        The preprocessing, and its entry in the manifest.

    Raises:
        OperatorError: The preprocessing has none of these forms, or its file is invalid.
    """
    text, serving_requirements = options.preprocessing, options.serving_requirements
    origin, _, class_name = (text or "").rpartition(":")
    if serving_requirements is not None and not origin.endswith(".py"):
        raise ImportRefused(
            f"--serving-requirements {serving_requirements}: belongs to a preprocessing class; "
            "leave it out, the bento has all that a spec needs"
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
    for path in captured.files.values():
        if path.suffix == ".py" and b".draft(" in path.read_bytes():
            raise ImportRefused(
                f"preprocessing {path.name}: calls draft, which has no effect on images that are "
                "decoded already; remove it and set DecodeRules(shrink_jpeg_to_side=SIDE), which "
                "calls draft(image.mode, (SIDE, SIDE))"
            )
    check_serving_packages(captured.imports, options.device, serving_requirements)
    captured.copy_to(root / OWN_PREPROCESSING)
    if serving_requirements is not None:
        shutil.copyfile(serving_requirements, root / SERVING_REQUIREMENTS_NAME)
    name = f"{OWN_PREPROCESSING}/{source.name}"
    preprocessing = _load_copy((root / name).absolute(), class_name, source)
    return preprocessing, PreprocessingEntry(
        file=name, class_name=class_name, decode=preprocessing.decode
    )


def _from_spec(spec: PreprocessingSpec) -> tuple[Preprocessing, PreprocessingEntry]:
    preprocessing = SpecPreprocessing(spec)
    return preprocessing, PreprocessingEntry(spec=spec, decode=preprocessing.decode)


def _load_copy(copy: Path, class_name: str, source: Path) -> Preprocessing:
    """Load the copy that will serve; refuse a class that opens files that were not copied."""
    with contextlib.chdir(copy.parents[1]):  # relative file names must not be found either
        try:
            preprocessing = load_preprocessing(copy, class_name)
            with contextlib.suppress(ImageRejected):
                preprocessing.to_input(Image.new(preprocessing.decode.mode, (640, 480)))
        except (SpecError, PreprocessingBug) as error:
            cause = error.__cause__
            if isinstance(cause, OSError):
                name = Path(str(cause.filename)).name if cause.filename else one_line(cause)
                raise ImportRefused(
                    f"preprocessing {source.name}: cannot open {name}; it may open files only as "
                    "Path(__file__).parent / 'NAME', with the name in one string, so that they "
                    "travel with it"
                ) from error
            if isinstance(error, SpecError):  # its message names the copy
                raise ImportRefused(str(error).replace(str(copy), str(source))) from error
            # Other failures on a blank image prove nothing; the golden images test the class.
    return preprocessing
