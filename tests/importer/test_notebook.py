"""The lines that `python -m importer.notebook` prints, run as a notebook would run them."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from importer.reference import read_reference


def test_the_lines_save_what_the_notebook_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_module("importer.notebook", run_name="__main__")
    lines = capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    for name, colour in {"cat/a.png": (255, 0, 0), "dog/b.jpg": (0, 0, 255)}.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), colour).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "labels.csv").write_text("file,label\n")

    def transform(image: Image.Image) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(image.resize((1, 1)))) / 255
        return pixels.permute(2, 0, 1)

    # Dropout shows whether the lines set the evaluation mode.
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9))
    exec(lines, {"model": model, "transform": transform, "classes": ["red", "green", "blue"]})

    reference = read_reference(tmp_path / "reference.npz")
    rows = reference.rows(["cat/a.png", "dog/b.jpg"], 3)
    assert rows == pytest.approx(np.array([[1, 0, 0], [0, 0, 1]]), abs=0.02)  # JPEG
    assert reference.labels == ("red", "green", "blue")
