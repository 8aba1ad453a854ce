"""Decoding JPEGs at a reduced size is certified against a full decode."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classifier.artifact.evidence import Evidence
from importer.errors import ImportRefused
from tests.imports import digits_options, import_quietly, spec_file


def imported(folder: Path, side: int) -> Evidence:
    """Import the digits with JPEGs of 1,280 pixels, shrunk to `side`: a seven and a one."""
    (folder / "samples").mkdir()
    for name, boxes in {
        "7": [(380, 250, 900, 350), (780, 250, 900, 1050)],
        "1": [(580, 200, 700, 1080)],
    }.items():
        picture = Image.new("L", (1_280, 1_280), 255)
        for box in boxes:
            picture.paste(0, box)
        picture.save(folder / "samples" / f"{name}-01.jpg", quality=95)
    decode = {"mode": "L", "shrink_jpeg_to_side": side}
    spec = {"decode": decode, "resize": {"size": 32}, "crop": 32, "mean": [0.19], "std": [0.31]}
    options = digits_options(
        preprocessing=spec_file(folder, spec),
        golden=folder / "samples",
        golden_labels=None,
        engine="onnxruntime",
    )
    return import_quietly(options, folder / "model.lock").evidence


def test_shrinking_is_certified_in_the_evidence(store: Path, tmp_path: Path) -> None:
    shrinking = imported(tmp_path, side=160).shrinking

    assert shrinking is not None
    assert shrinking.samples == 2
    assert shrinking.top1_agreement == 1
    assert shrinking.max_logit_difference > 0  # other pixels, so other logits


def test_shrinking_without_a_large_golden_image_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="no golden image is a JPEG large enough"):
        imported(tmp_path, side=1_280)


def test_shrinking_that_changes_answers_is_refused_with_the_numbers(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such plain drawings do not change with their size, so the reference is replaced: "0" for all.
    monkeypatch.setattr(
        "importer.shrinking.run_reference",
        lambda network, inputs: np.eye(1, 10, dtype=np.float32).repeat(len(inputs), axis=0),
    )

    with pytest.raises(ImportRefused, match=r"top-1 agrees on 0\.0% of the golden samples"):
        imported(tmp_path, side=160)
