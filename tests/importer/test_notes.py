"""torchvision's published preprocessing by name, and what an import says beside its table."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from importer.candidates import choose_candidates
from importer.captured_preprocessing import capture_preprocessing
from importer.options import ImportOptions
from preprocessing import PreprocessingSpec, Resize
from tests.importer.linear_graphs import PIXELS, onnx_linear, options_for
from tests.imports import import_quietly

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Notes:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        yield


def notes_of(options: ImportOptions, folder: Path) -> list[str]:
    progress = Notes()
    options = options.model_copy(update={"engine": "onnxruntime"})
    import_quietly(options, folder / "model.lock", progress)
    return progress.texts


@pytest.mark.parametrize(
    ("text", "size", "crop", "interpolation"),
    [
        ("torchvision:resnet50/IMAGENET1K_V2", 232, 224, "bilinear"),
        ("torchvision:resnet50", 232, 224, "bilinear"),
        ("torchvision:vit_b_16/IMAGENET1K_SWAG_E2E_V1", 384, 384, "bicubic"),
    ],
)  # torchvision 0.29's documentation of each weights enum
def test_a_preset_is_what_torchvision_documents(
    tmp_path: Path, text: str, size: int, crop: int, interpolation: str
) -> None:
    preprocessing, entry = capture_preprocessing(text, None, tmp_path)

    assert entry.spec == PreprocessingSpec.model_validate(
        {"resize": Resize.model_validate({"size": size, "interpolation": interpolation}),
         "crop": crop, **IMAGENET}
    )  # fmt: skip
    assert preprocessing.input_shape == (crop, crop, 3)


def images(folder: Path) -> Path:
    folder.mkdir()
    for number, pixels in enumerate(PIXELS[:2]):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_what_is_changed_in_a_graph_is_told(store: Path, tmp_path: Path) -> None:
    graph = onnx_linear(
        tmp_path / "network.onnx",
        inputs="float[4,3,4,4] image",
        outputs="float[4,3] out",
        flat="Reshape (planes, four_rows)",
        end="out = Softmax <axis = 1> (scores)",
    )

    notes = notes_of(options_for(graph, images(tmp_path / "golden")), tmp_path)

    assert notes == [
        "the graph ends in softmax; its input, the logits, is served",
        "the graph has a fixed batch size of 4; it is made free",
        "classes of the golden images are not known, so no accuracy is compared",
    ]


@pytest.mark.parametrize(
    ("device", "samples", "told"),
    [
        ("cpu", 99, "bf16 and int8 are tried from 100 golden images on; there are 99"),
        ("cuda", 2, "bf16 and fp16 are tried from 100 golden images on; there are 2"),
        ("cpu", 100, ""),
    ],
)
def test_precisions_that_too_few_images_leave_out_are_told(
    device: str, samples: int, told: str
) -> None:
    chosen, note = choose_candidates("auto", "auto", device, samples)

    assert note.partition(" (")[0] == told
    assert ({candidate.precision for candidate in chosen} == {"fp32"}) == bool(told)
    # One that was asked for is tried whatever the number of images.
    assert choose_candidates("auto", "int8", "cpu", 2)[1] == ""
