"""A checkpoint that carries a program is refused through the command line, and does not run."""

import pickle
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from model_import import main
from tests.imports import DIGITS, SAMPLES


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return subprocess.check_call, (["touch", str(self.marker)],)


def pickle_beside_tensors(path: Path, marker: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, path)
    with zipfile.ZipFile(path) as source:
        contents = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, data in contents.items():
            payload = pickle.dumps(Payload(marker), protocol=2)
            target.writestr(name, payload if name.endswith("data.pkl") else data)


def test_a_payload_is_refused_and_does_not_run(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, marker = tmp_path / "weights.pth", tmp_path / "ran"
    pickle_beside_tensors(checkpoint, marker)

    status = main(
        ["--name", "digits", "--network", f"{DIGITS}/network.py:build", "--quiet",
         "--weights", str(checkpoint), "--labels", str(DIGITS / "labels.txt"),
         "--preprocessing", f"{DIGITS}/preprocessing.py:DigitsPreprocessing",
         "--golden", str(SAMPLES), "--lock", str(tmp_path / "model.lock")]
    )  # fmt: skip

    assert status == 1
    assert not marker.exists()
    assert not (tmp_path / "model.lock").exists()
    assert not list(store.glob("models/*"))
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "nothing was run" in text or "not a complete checkpoint" in text
    assert "safetensors" in text
