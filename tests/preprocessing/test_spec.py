"""Specs are read from files, and mistakes in them are reported in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from preprocessing import (
    DecodeRules,
    InputSpec,
    PreprocessingSpec,
    Resize,
    SpecError,
    SpecPreprocessing,
)
from tests.preprocessing.files import imagenet

EXPECTED = PreprocessingSpec(
    decode=DecodeRules(exif_orientation=True, alpha="white"),
    resize=Resize(size=256, interpolation="bicubic"),
    crop=224,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)
YAML = """
decode: {mode: RGB, exif_orientation: true, alpha: white}
resize: {size: 256, interpolation: bicubic}
crop: 224
mean: [0.5, 0.5, 0.5]
std: [0.25, 0.25, 0.25]
"""
PAGE = (Path(__file__).parents[2] / "docs" / "preprocessing.md").read_text()


def test_yaml_and_json_give_the_same_spec_and_preprocessing(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(YAML)
    (tmp_path / "spec.json").write_text(EXPECTED.model_dump_json())

    preprocessing = SpecPreprocessing(PreprocessingSpec.from_file(tmp_path / "spec.yaml"))

    assert preprocessing.spec == PreprocessingSpec.from_file(tmp_path / "spec.json") == EXPECTED
    assert preprocessing.decode == EXPECTED.decode
    assert preprocessing.input_spec == InputSpec(
        shape=(224, 224, 3), dtype="uint8", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    assert preprocessing.resized_size((500, 375)) == (341, 256)


def test_the_documented_spec_is_the_imagenet_spec_with_every_key() -> None:
    written = yaml.safe_load(PAGE.split("```yaml\n")[1].split("```")[0])

    assert PreprocessingSpec.model_validate(written) == imagenet()
    assert written == imagenet().model_dump(mode="json") | {"crop_rounding": "even"}
    assert written.keys() == PreprocessingSpec.model_fields.keys()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", "resize: [", "cannot be read as a preprocessing spec"),
        ("a.json", "{", "cannot be read as a preprocessing spec"),
        ("a.yaml", "crop: 5\ncrop: 6", "crop is given twice"),
        ("a.json", '{"crop": 5, "crop": 6}', "crop is given twice"),
        ("a.yaml", "!!map [1, 2]", "expected a mapping node"),
        ("a.yaml", None, "No such file"),
        ("a.yaml", "", "valid dictionary"),
        ("a.yaml", "crop: 224\nresise: {size: 256}", "resise: Extra inputs are not permitted"),
        ("a.yaml", "crop: 5\nstd: [1, 1, 0]", "std must be positive"),
        ("a.yaml", "crop: 5\nmean: [.nan, 0, 0]", "mean.0: Input should be a finite number"),
        ("a.yaml", "resize: {size: 5}", "resize must be exact"),
        ("a.yaml", "resize: {size: [5, 5]}\ncrop: 5", "one number"),
        ("a.yaml", "resize: {size: 5, max_size: 5}\ncrop: 5", "must exceed size"),
        ("a.yaml", "resize: {size: 5, mode: exact, max_size: 9}", "shorter_side only"),
        ("a.yaml", "resize: {size: 5, antialias: false}\ncrop: 5", "PIL always antialiases"),
        (
            "a.yaml",
            "resize: {size: 5, backend: tensor, interpolation: hamming}\ncrop: 5",
            "not hamming",
        ),
        (
            "a.yaml",
            "resize: {size: 5, backend: tensor, interpolation: lanczos, antialias: false}\ncrop: 5",
            "lanczos needs",
        ),
    ],
)
def test_an_invalid_spec_is_reported_in_one_line(
    tmp_path: Path, name: str, text: str | None, expected: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)

    with pytest.raises(SpecError, match=expected) as caught:
        PreprocessingSpec.from_file(tmp_path / name)

    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"crop": 7}, (7, 7, 3)),
        ({"crop": (7, 9)}, (7, 9, 3)),
        ({"resize": {"mode": "exact", "size": (4, 6)}}, (4, 6, 3)),
        ({"resize": {"mode": "exact", "size": 4}, "decode": {"mode": "L"}}, (4, 4, 1)),
    ],
)
def test_the_input_is_height_width_channels_and_by_default_not_normalised(
    fields: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    spec = PreprocessingSpec.model_validate(fields)

    assert spec.input_shape == shape
    assert (spec.mean, spec.std) == ((0.0,) * shape[2], (1.0,) * shape[2])
