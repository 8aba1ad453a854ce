"""Refused imports: one line gives the reason, and store and lock are unchanged."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from model_import import main
from tests.imports import SAMPLES, command_line, digits_options

LOCK_BEFORE = "the lock of another model"


def truncated_golden_image(folder: Path) -> dict[str, object]:
    shutil.copytree(SAMPLES, folder / "samples")
    whole = (SAMPLES / "4-01.png").read_bytes()
    (folder / "samples" / "4-01.png").write_bytes(whole[: len(whole) // 2])
    return {"golden": folder / "samples"}


def large_golden_image(folder: Path) -> dict[str, object]:
    shutil.copytree(SAMPLES, folder / "samples")
    Image.new("1", (10_000, 10_000)).save(folder / "samples" / "4-01.png")
    return {"golden": folder / "samples"}


def nine_labels(folder: Path) -> dict[str, object]:
    (folder / "nine.txt").write_text("\n".join("012345678"))
    return {"labels": str(folder / "nine.txt")}


def file_in_place_of_the_store(folder: Path) -> dict[str, object]:
    (folder / "bentoml" / "models").rmdir()
    (folder / "bentoml" / "models").touch()
    return {}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda _: {"labels": None}, "--labels is not given"),
        (nine_labels, "9 names for the network's 10 outputs"),
        (truncated_golden_image, "golden image 4-01.png: .*; remove it or replace it by an intact"),
        (large_golden_image, "golden image 4-01.png: .*; remove it or replace it by a smaller one"),
        (
            lambda _: {"gate_fp32_tolerance": 1e-12},
            r"no engine passed: onnxruntime-fp32: a logit is off by \d.*e-\d+ \(relative\), "
            r"allowed is 1e-12",
        ),
        (file_in_place_of_the_store, r"/models: File exists\n"),
    ],
)
def test_a_refusal_is_one_line_and_changes_nothing(
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], dict[str, object]],
    message: str,
) -> None:
    lock = tmp_path / "model.lock"
    lock.write_text(LOCK_BEFORE)
    options = digits_options(engine="onnxruntime", precision="fp32", lock=lock, **spoil(tmp_path))

    status = main(["--quiet", *command_line(options)])

    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    assert err.startswith("model_import: ")
    assert re.search(message, err, re.DOTALL), err
    assert [path for path in store.glob("models/**/*") if path.is_file()] == []
    assert [path.name for path in store.iterdir()] == ["models"]
    assert lock.read_text() == LOCK_BEFORE
