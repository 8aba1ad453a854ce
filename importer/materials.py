"""All a researcher hands in, read, checked against each other, captured in the draft."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from image_classifier.artifact.artifact import built_in_sources, load_own_preprocessing
from image_classifier.artifact.format import BUILT_IN_PREPROCESSING
from image_classifier.artifact.manifest import TORCHVISION, PreprocessingEntry
from importer.errors import ImportRefused
from importer.golden_images import (
    GoldenImage,
    GoldenImages,
    Reference,
    read_golden_images,
    read_reference,
)
from importer.graphs import OnnxNetwork
from importer.labels import read_labels
from importer.network import ModelSource, output_activation, read_graph, read_network
from importer.options import ImportOptions
from importer.progress import Progress
from importer.torchvision_models import TorchvisionWeights, torchvision_meta
from preprocessing import (
    DecodeLimits,
    Preprocessing,
    PreprocessingSpec,
    SpecPreprocessing,
    to_input,
)
from preprocessing.errors import ImageRejected
from preprocessing.orientation import upright_turn

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
        model = _model(options, draft)
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


def _model(options: ImportOptions, draft: Path) -> ModelSource:
    if options.network is None:
        model = read_graph(Path(options.weights), draft)
        if isinstance(model.network, OnnxNetwork):
            operation, is_cut = model.network.ends_in, model.network.activation_cut
            if output_activation(operation, is_cut=is_cut, asked=None) != "softmax":
                raise ImportRefused(f"{options.weights}: ends in {operation}, expected logits")
        return model
    return read_network(
        options.network,
        options.network_kwargs,
        options.weights,
        draft,
        weights_key=options.weights_key,
        weights_prefix=options.weights_prefix,
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
