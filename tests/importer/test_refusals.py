"""What cannot be imported: one line says why, and store and lock are as they were."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model_import import main
from tests.importer.test_weights_hostile import Payload
from tests.imports import DIGITS, SAMPLES

LOCK_BEFORE = "the lock of another model"


@pytest.fixture
def arguments(store: Path, tmp_path: Path) -> dict[str, str]:
    """Options of an import that would succeed, on one engine."""
    (tmp_path / "model.lock").write_text(LOCK_BEFORE)
    return {
        "--name": "digits",
        "--network": f"{DIGITS}/network.py:build",
        "--weights": str(DIGITS / "weights.safetensors"),
        "--preprocessing": f"{DIGITS}/preprocessing.py:DigitsPreprocessing",
        "--labels": str(DIGITS / "labels.txt"),
        "--golden": str(SAMPLES),
        "--engine": "onnxruntime",
        "--precision": "fp32",
        "--measure-seconds": "0.001",
        "--lock": str(tmp_path / "model.lock"),
    }


def run(arguments: dict[str, str]) -> int:
    return main(["--quiet", *(part for pair in arguments.items() for part in pair)])


def a_truncated_golden_image(arguments: dict[str, str], folder: Path) -> None:
    shutil.copytree(SAMPLES, folder / "samples")
    whole = (SAMPLES / "4-01.png").read_bytes()
    (folder / "samples" / "4-01.png").write_bytes(whole[: len(whole) // 2])
    arguments["--golden"] = str(folder / "samples")


def nine_labels(arguments: dict[str, str], folder: Path) -> None:
    (folder / "nine.txt").write_text("\n".join("012345678"))
    arguments["--labels"] = str(folder / "nine.txt")


def an_absurd_tolerance(arguments: dict[str, str], _: Path) -> None:
    arguments["--gate-fp32-tolerance"] = "1e-12"


def a_pickle_in_the_weights(arguments: dict[str, str], folder: Path) -> None:
    torch.save({"hook": Payload(folder / "victim")}, folder / "weights.pth")
    arguments["--weights"] = str(folder / "weights.pth")


def a_file_for_a_store(_: dict[str, str], folder: Path) -> None:
    (folder / "bentoml" / "models").rmdir()
    (folder / "bentoml" / "models").write_text("a file where the store should be")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda arguments, _: arguments.pop("--labels"), "--labels is not given"),
        (nine_labels, "9 .*10|10 .*9"),
        (a_truncated_golden_image, "golden image 4-01.png: .*; remove it or replace it"),
        (
            an_absurd_tolerance,
            r"no engine passed: onnxruntime-fp32: a logit is off by \d.*e-\d+ \(relative\), "
            r"allowed is 1e-12",
        ),
        (a_pickle_in_the_weights, "needs pickle .*; nothing was run"),
        (a_file_for_a_store, r"/models/\S+: Not a directory\n"),
    ],
)
def test_a_refusal_is_one_line_and_changes_nothing(
    arguments: dict[str, str],
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[dict[str, str], Path], None],
    said: str,
) -> None:
    spoil(arguments, tmp_path)

    status = run(arguments)

    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    assert err.startswith("model_import: ")
    assert re.search(said, err, re.DOTALL), err
    assert [path for path in store.glob("models/**/*") if path.is_file()] == []
    assert [path.name for path in store.iterdir()] == ["models"]
    assert (tmp_path / "model.lock").read_text() == LOCK_BEFORE
    assert not (tmp_path / "victim").exists()
