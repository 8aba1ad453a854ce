"""Specs say what is wrong with them in one line, and survive the way through a file."""

import json

import pytest
from pydantic import ValidationError

from preprocessing import DecodeRules, PreprocessingSpec, Resize, SpecError, SpecPreprocessing

YAML = """
decode: {mode: RGB, exif_orientation: true, alpha: white}
resize: {size: 256, interpolation: bicubic}
crop: 224
mean: [0.5, 0.5, 0.5]
std: [0.25, 0.25, 0.25]
"""
EXPECTED = PreprocessingSpec(
    decode=DecodeRules(exif_orientation=True, alpha="white"),
    resize=Resize(size=256, interpolation="bicubic"),
    crop=224,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)


def test_yaml_and_json_give_the_same_spec(tmp_path):
    (tmp_path / "spec.yaml").write_text(YAML)
    (tmp_path / "spec.json").write_text(EXPECTED.model_dump_json())

    assert PreprocessingSpec.from_file(tmp_path / "spec.yaml") == EXPECTED
    assert PreprocessingSpec.from_file(tmp_path / "spec.json") == EXPECTED


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", "resize: [", "cannot be read as a preprocessing spec"),
        ("a.json", "{", "cannot be read as a preprocessing spec"),
        ("a.json", "[]", "valid dictionary"),
        ("a.yaml", "", "valid dictionary"),
        ("a.yaml", "crop: 224\nresise: {size: 256}", "resise: Extra inputs are not permitted"),
        ("a.yaml", "crop: 0", "crop.*greater than or equal to 1"),
        ("a.yaml", "crop: 5\nstd: [1, 1, 0]", "std must be positive"),
        ("a.yaml", "crop: 5\nmean: [1]", "mean must have 3 numbers for mode RGB, got 1"),
        ("a.yaml", "crop: 5\nmean: [.nan, 0, 0]", "mean.0: Input should be a finite number"),
        ("a.yaml", "decode: 5\ncrop: 5", "decode"),
    ],
)
def test_a_file_that_is_no_spec_is_reported_in_one_line(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)

    with pytest.raises(SpecError, match=expected) as caught:
        PreprocessingSpec.from_file(tmp_path / name)

    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(SpecError, match="No such file"):
        PreprocessingSpec.from_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("resize", "message"),
    [
        ({"size": (5, 5)}, "one number"),
        ({"size": 5, "max_size": 5}, "must exceed size"),
        ({"size": 5, "mode": "exact", "max_size": 9}, "shorter_side only"),
        ({"size": 5, "antialias": False}, "PIL always antialiases"),
        ({"size": 5, "backend": "tensor", "interpolation": "hamming"}, "not hamming"),
        (
            {"size": 5, "backend": "tensor", "interpolation": "lanczos", "antialias": False},
            "lanczos needs",
        ),
        ({"size": 0}, "greater than or equal to 1"),
        ({"size": 5, "interpolation": "cubic"}, "Input should be"),
    ],
)
def test_a_resize_that_cannot_be_is_refused(resize, message):
    with pytest.raises(ValidationError, match=message):
        Resize(**resize)


@pytest.mark.parametrize("resize", [None, {"size": 5}])
def test_without_crop_the_input_needs_an_exact_resize(resize):
    with pytest.raises(ValidationError, match="resize must be exact"):
        PreprocessingSpec(resize=resize)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ({"crop": 7}, (7, 7, 3)),
        ({"crop": (7, 9)}, (7, 9, 3)),
        ({"resize": {"mode": "exact", "size": (4, 6)}}, (4, 6, 3)),
        ({"resize": {"mode": "exact", "size": 4}, "decode": {"mode": "L"}}, (4, 4, 1)),
    ],
)
def test_the_input_shape_is_height_width_channels(spec, shape):
    assert PreprocessingSpec.model_validate(spec).input_shape == shape


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_normalisation_left_out_changes_nothing(mode, channels):
    spec = PreprocessingSpec(decode=DecodeRules(mode=mode), crop=5)

    assert spec.mean == (0.0,) * channels
    assert spec.std == (1.0,) * channels


def test_the_imagenet_shorthand():
    spec = PreprocessingSpec.imagenet(resize=232, interpolation="bicubic")

    assert json.loads(spec.model_dump_json()) == {
        "decode": {
            "mode": "RGB",
            "exif_orientation": False,
            "alpha": "drop",
            "grey16": "scale",
            "shrink_jpeg_to_side": None,
        },
        "resize": {
            "mode": "shorter_side",
            "size": 232,
            "max_size": None,
            "interpolation": "bicubic",
            "backend": "pil",
            "antialias": True,
        },
        "crop": 224,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        PreprocessingSpec.imagenet().crop = 5


def test_the_built_in_preprocessing_offers_what_the_spec_says():
    preprocessing = SpecPreprocessing(EXPECTED)

    assert preprocessing.decode is EXPECTED.decode
    assert preprocessing.input_shape == (224, 224, 3)
    assert preprocessing.input_dtype == "uint8"
    assert preprocessing.mean == (0.5, 0.5, 0.5)
    assert preprocessing.std == (0.25, 0.25, 0.25)
    assert preprocessing.resized_size((500, 375)) == (341, 256)
