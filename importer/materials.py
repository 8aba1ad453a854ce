"""All a researcher hands in, read, checked against each other, captured in the draft."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from artifact.golden_images import GoldenImage, GoldenImages, read_golden_images
from artifact.golden_images_reference import Reference, read_reference
from artifact.labels import read_labels
from artifact.manifest import PreprocessingEntry
from importer.console import Progress
from importer.errors import ImportRefused
from importer.model_source import ModelSource, read_model
from importer.options import ImportOptions
from importer.preprocessing_source import (
    capture_preprocessing,
    capture_spec,
    published_spec,
)
from preprocessing import DecodeLimits, Preprocessing, to_input
from preprocessing.decode import upright_turn
from preprocessing.errors import ImageRejected

CLASSES_FROM = {
    "csv": "the table",
    "folders": "the sub-folders",
    "prefixes": "the start of the file names",
}
"""`GoldenImages.labels_from`, in words."""


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What an artifact is made from.

    Attributes:
        signature: Facts of the preprocessing the graph relies on.
        golden: Images the model is verified with.
        inputs: Their inputs, (n, H, W, C).
        calibration: Inputs for quantisation, (m, H, W, C).
        reference: The researcher's own numbers, where given.
    """

    model: ModelSource
    preprocessing: Preprocessing
    signature: PreprocessingEntry
    labels: tuple[str, ...]
    golden: tuple[GoldenImage, ...]
    inputs: npt.NDArray[np.generic]
    calibration: npt.NDArray[np.generic]
    reference: Reference | None


def read_materials(options: ImportOptions, draft: Path, progress: Progress) -> Materials:
    """Read everything an import needs.

    Raises:
        OperatorError: What is missing or wrong, and what to do.
    """
    with progress.step("read the network and its weights"):
        model = read_model(options, draft)
    for note in model.notes:
        progress.note(note)
    preprocessing, signature = _preprocessing(options, model, draft)
    labels = _labels(options, model)
    reference = None if options.reference is None else read_reference(options.reference)
    with progress.step("read and preprocess the golden images"):
        found = read_golden_images(
            options.golden,
            labels,
            options.golden_count,
            options.golden_labels,
            among=None if reference is None else reference.by_name.keys(),
        )
        inputs = _inputs(found.images, preprocessing)
        calibration = _calibration(options, labels, preprocessing)
    notes = (_classes_note(found, labels), *found.notes)
    for note in (*notes, *_orientation_note(found.images, preprocessing)):
        progress.note(note)
    return Materials(
        model=model,
        preprocessing=preprocessing,
        signature=signature,
        labels=labels,
        golden=found.images,
        inputs=inputs,
        calibration=inputs if calibration is None else calibration,
        reference=reference,
    )


def _preprocessing(
    options: ImportOptions, model: ModelSource, draft: Path
) -> tuple[Preprocessing, PreprocessingEntry]:
    if options.preprocessing is not None:
        return capture_preprocessing(options.preprocessing, draft)
    published = model.published
    if published is None:
        raise ImportRefused(
            "--preprocessing is not given and the weights are not published by torchvision; "
            "expected a spec file (.yaml, .json), PATH.py:CLASS or torchvision:NAME/WEIGHTS"
        )
    return capture_spec(published_spec(published), draft)


def _labels(options: ImportOptions, model: ModelSource) -> tuple[str, ...]:
    if options.labels is not None:
        return read_labels(options.labels)
    if model.published is None:
        raise ImportRefused(
            "--labels is not given and the weights are not published by torchvision; "
            "expected a file with one name a line, or JSON"
        )
    return model.published.labels


def _inputs(
    images: tuple[GoldenImage, ...], preprocessing: Preprocessing
) -> npt.NDArray[np.generic]:
    return np.stack([_input(image, preprocessing) for image in images])


def _input(image: GoldenImage, preprocessing: Preprocessing) -> npt.NDArray[np.generic]:
    try:
        return to_input(image.data, preprocessing, DecodeLimits())
    except ImageRejected as error:
        raise ImportRefused(
            f"golden image {image.name}: {error}; remove it or replace it by a sound file"
        ) from error


def _classes_note(found: GoldenImages, labels: tuple[str, ...]) -> str:
    for image in found.images:
        if image.label is not None:
            return (
                f"classes of the golden images come from {CLASSES_FROM[found.labels_from]}: "
                f"{image.name} is {labels[image.label]!r}, class {image.label}"
            )
    return "classes of the golden images are not known, so no accuracy is compared"


def _orientation_note(
    images: tuple[GoldenImage, ...], preprocessing: Preprocessing
) -> Iterator[str]:
    if preprocessing.decode.exif_orientation:
        return
    turned = [image.name for image in images if _is_turned(image.data)]
    if turned:
        yield (
            f"{len(turned)} golden images, {turned[0]} the first, are turned by their EXIF "
            "orientation, which this preprocessing ignores, as torchvision's transforms do; "
            "decode.exif_orientation in a spec applies it"
        )


def _is_turned(data: bytes) -> bool:
    with Image.open(BytesIO(data)) as image:  # decoded before, so it can be read
        image.load()
        return upright_turn(image) is not None


def _calibration(
    options: ImportOptions, labels: tuple[str, ...], preprocessing: Preprocessing
) -> npt.NDArray[np.generic] | None:
    if options.calibration is None:
        return None
    found = read_golden_images(options.calibration, labels, options.calibration_count, None)
    return _inputs(found.images, preprocessing)
