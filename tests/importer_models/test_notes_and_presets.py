"""torchvision's published preprocessing by name, and what an import says beside its table."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from importer.materials import capture_preprocessing, read_materials
from PIL import Image

from image_classifier.artifact.format import ArtifactError
from importer.candidates import chosen_candidates
from importer.errors import ImportRefused
from preprocessing import PreprocessingSpec, Resize
from tests.importer_models.linear_graphs import PIXELS, SIDE, onnx_linear, options_for
from tests.importer_models.shared_models import spec_file
from tests.imports import digits_options

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


@pytest.mark.parametrize(
    ("text", "size", "crop", "interpolation"),
    [
        ("torchvision:resnet50/IMAGENET1K_V1", 256, 224, "bilinear"),
        ("torchvision:resnet50/IMAGENET1K_V2", 232, 224, "bilinear"),
        ("torchvision:resnet50", 232, 224, "bilinear"),
        ("torchvision:efficientnet_b1/IMAGENET1K_V1", 256, 240, "bicubic"),
        ("torchvision:vit_b_16/IMAGENET1K_SWAG_E2E_V1", 384, 384, "bicubic"),
        ("torchvision:swin_t", 232, 224, "bicubic"),
    ],
)  # torchvision 0.29's documentation of each weights enum
def test_a_preset_is_what_torchvision_documents(
    tmp_path: Path, text: str, size: int, crop: int, interpolation: str
) -> None:
    preprocessing, entry = capture_preprocessing(text, tmp_path)

    assert entry.spec == PreprocessingSpec.model_validate(
        {"resize": Resize.model_validate({"size": size, "interpolation": interpolation}),
         "crop": crop, **IMAGENET}
    )  # fmt: skip
    assert preprocessing.input_shape == (crop, crop, 3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("torchvision:resnet51", "close are resnet50"),
        ("torchvision:resnet50/IMAGENET22K", "there are IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
    ],
)
def test_a_preset_that_does_not_exist_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ArtifactError, match=reason):
        capture_preprocessing(text, tmp_path)


def test_another_form_of_preprocessing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"expected a spec file .* or torchvision:NAME/WEIGHTS"):
        capture_preprocessing("imagenet", tmp_path)


def pictures(folder: Path, orientation: int) -> Path:
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS[0]).save(folder / "turned.png", exif=exif)
    Image.fromarray(PIXELS[1]).save(folder / "plain.png")
    return folder


@pytest.mark.parametrize(
    ("orientation", "applied", "told"), [(6, False, True), (6, True, False), (1, False, False)]
)
def test_an_orientation_that_will_be_ignored_is_told(
    tmp_path: Path, orientation: int, applied: bool, told: bool
) -> None:
    graph = onnx_linear(tmp_path / "network.onnx")
    options = options_for(graph, pictures(tmp_path / "golden", orientation))
    (tmp_path / "other").mkdir()
    spec = spec_file(tmp_path / "other", {"crop": SIDE, "decode": {"exif_orientation": applied}})
    progress = Notes()
    (tmp_path / "draft").mkdir()

    read_materials(options.model_copy(update={"preprocessing": spec}), tmp_path / "draft", progress)

    notes = [text for text in progress.texts if "EXIF" in text]
    assert bool(notes) == told
    assert not told or notes[0].startswith("1 golden images, turned.png the first, are turned")


def test_what_is_changed_in_a_graph_is_told(tmp_path: Path) -> None:
    graph = onnx_linear(tmp_path / "network.onnx", batch=2, flat_batch=2, softmax=True)
    progress = Notes()
    (tmp_path / "draft").mkdir()

    read_materials(
        options_for(graph, pictures(tmp_path / "golden", 1)), tmp_path / "draft", progress
    )

    assert progress.texts == [
        "the graph ends in Softmax; its input, the logits, is what is served",
        "the graph has a fixed batch size of 2; it is made free",
        "classes of the golden images are not known, so no accuracy is compared",
    ]


@pytest.mark.parametrize(
    ("names", "table", "told"),
    [
        (("001_a.png", "2-b.png"), "", "the start of the file names: 001_a.png is 'bee', class 1"),
        (("cow/a.png", "ant/b.png"), "", "the sub-folders: ant/b.png is 'ant', class 0"),
        (("a.png", "b.png"), "file,label\na.png,cow\n", "the table: a.png is 'cow', class 2"),
    ],
)
def test_where_the_classes_come_from_is_told(
    tmp_path: Path, names: tuple[str, str], table: str, told: str
) -> None:
    for name, pixels in zip(names, PIXELS[:2], strict=True):
        (tmp_path / "golden" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "golden" / name)
    if table:
        (tmp_path / "golden" / "labels.csv").write_text(table)
    graph = onnx_linear(tmp_path / "network.onnx")
    progress = Notes()
    (tmp_path / "draft").mkdir()

    read_materials(options_for(graph, tmp_path / "golden"), tmp_path / "draft", progress)

    assert progress.texts[0] == f"classes of the golden images come from {told}"


@pytest.mark.parametrize(
    ("device", "samples", "told"),
    [
        ("cpu", 99, ["bf16 and int8 are tried from 100 golden images on; there are 99"]),
        ("cuda", 2, ["bf16 and fp16 are tried from 100 golden images on; there are 2"]),
        ("cpu", 100, []),
    ],
)
def test_engines_that_too_few_images_leave_out_are_told(
    device: str, samples: int, told: list[str]
) -> None:
    progress = Notes()

    chosen = chosen_candidates(digits_options(device=device), samples, progress)

    assert [text.partition(" (")[0] for text in progress.texts] == told
    assert ({one.precision for one in chosen} == {"fp32"}) == bool(told)


def test_what_was_asked_for_is_tried_whatever_the_number_of_images() -> None:
    progress = Notes()

    chosen = chosen_candidates(digits_options(precision="int8"), 2, progress)

    assert [one.name for one in chosen] == ["openvino-int8"]
    assert progress.texts == []
