"""A preprocessing that is not the researcher's is refused, and the right cause is named."""

from pathlib import Path
from typing import Any

import pytest

from importer.errors import ImportRefused
from tests.importer.trained_models import SPECS, options_of, spec_file
from tests.imports import import_quietly
from tests.shared_data import needs_shared_data

pytestmark = [needs_shared_data, pytest.mark.slow]

MODELS = ("squeezenet1_1_imagenet", "mobilenet_v2_tfqat_imagenet")
each_model = pytest.mark.parametrize(
    "model", [MODELS[0], pytest.param(MODELS[1], marks=pytest.mark.all)]
)
CROPS = {"squeezenet1_1_imagenet": 224, "mobilenet_v2_tfqat_imagenet": 225}
BGR = """from preprocessing import PreprocessingSpec, SpecPreprocessing

RIGHT = SpecPreprocessing(PreprocessingSpec.model_validate({spec!r}))


class Reversed:
    decode = RIGHT.decode
    input_shape = RIGHT.input_shape
    input_dtype = "uint8"
    mean = RIGHT.mean
    std = RIGHT.std

    def to_input(self, image):
        return RIGHT.to_input(image)[..., ::-1].copy()
"""


def refusal(options: Any, tmp_path: Path, store: Path) -> str:
    with pytest.raises(ImportRefused) as refused:
        import_quietly(options, tmp_path / "model.lock")
    assert not (tmp_path / "model.lock").exists()
    assert not list(store.glob("models/*"))
    return str(refused.value)


def wrong(folder: Path, model: str, **changes: Any) -> str:
    """A spec file, not the one that `options_of` writes."""
    (folder / "wrong").mkdir()
    return spec_file(folder / "wrong", {**SPECS[model], **changes})


@each_model
def test_channels_in_the_opposite_order(store: Path, tmp_path: Path, model: str) -> None:
    (tmp_path / "bgr.py").write_text(BGR.format(spec=SPECS[model]))
    options = options_of(
        model, tmp_path, golden_count=6, preprocessing=f"{tmp_path}/bgr.py:Reversed"
    )

    text = refusal(options, tmp_path, store)

    assert "likely cause: channel order" in text


@each_model
@pytest.mark.parametrize(
    ("mistake", "cause", "truth"),
    [
        ("no normalisation", "normalisation: the reference uses", None),
        (
            "resize to 224",
            "resize size, aspect ratio or crop: the reference does",
            "resize the shorter side to 256, crop {crop}",
        ),
        (
            "bicubic",
            "interpolation or antialias: the reference resizes with bilinear, antialias",
            "given is bicubic, antialias",
        ),
        (
            "no antialias",
            "interpolation or antialias: the reference resizes with bilinear, antialias",
            "given is bilinear, no antialias",
        ),
    ],
)
def test_one_wrong_step_is_named(
    store: Path, tmp_path: Path, model: str, mistake: str, cause: str, truth: str | None
) -> None:
    crop = CROPS[model]
    changes: dict[str, dict[str, Any]] = {
        "no normalisation": {"mean": [0.0] * 3, "std": [1.0] * 3},
        "resize to 224": {"resize": {"size": crop}},
        "bicubic": {"resize": {"size": 256, "interpolation": "bicubic"}},
        "no antialias": {"resize": {"size": 256, "backend": "tensor", "antialias": False}},
    }
    spec = wrong(tmp_path, model, **changes[mistake])
    options = options_of(model, tmp_path, golden_count=6, preprocessing=spec)

    text = refusal(options, tmp_path, store)

    assert f"likely cause: {cause}" in text
    assert (truth or "").format(crop=crop) in text
    assert text.endswith("change the preprocessing to match")


@each_model
def test_a_squashed_aspect_ratio(store: Path, tmp_path: Path, model: str) -> None:
    # The three photos are no squares: squashing shows on them alone.
    spec = wrong(tmp_path, model, resize={"mode": "exact", "size": 256})
    options = options_of(model, tmp_path, "photos", preprocessing=spec)

    text = refusal(options, tmp_path, store)

    assert (
        "likely cause: resize size, aspect ratio or crop: the reference does resize the shorter "
        f"side to 256, crop {CROPS[model]}, given is resize both sides (squash) to 256"
    ) in text
