"""Imports that make no sense are refused before anything is written, and served if accepted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from importer.errors import ImportRefused
from importer.options import ImportOptions
from tests.imports import import_quietly

NETWORK = """import torch
from torch import nn
from torch.nn import functional


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(48, 3)

    def forward(self, batch):
        logits = self.linear(batch.flatten(1))
        return {answer}


def build():
    return Network()
"""
CLASS = """import numpy as np
from preprocessing import DecodeRules


class Own:
    decode = DecodeRules()
    input_shape = (4, 4, 3)
    input_dtype = "uint8"
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def to_input(self, image):
        pixels = np.asarray(image.resize((4, 4)))
        return np.ascontiguousarray({answer})
"""


def options(folder: Path, **changes: object) -> ImportOptions:
    """Twelve golden images in three colours; the network answers with the strongest channel."""
    for number in range(12):
        pixels = np.zeros((4, 4, 3), dtype=np.uint8)
        pixels[..., number % 3] = 100 + number
        path = folder / "golden" / "rgb"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    weight = torch.eye(3).repeat_interleave(16, dim=1)  # (3, 48): channel-major
    save_file({"linear.weight": weight, "linear.bias": torch.zeros(3)}, folder / "w.safetensors")
    (folder / "network.py").write_text(NETWORK.format(answer=changes.pop("network", "logits")))
    (folder / "own.py").write_text(CLASS.format(answer=changes.pop("own", "pixels")))
    (folder / "labels.txt").write_text("\n".join(str(changes.pop("labels", "rgb"))))
    given: dict[str, object] = {
        "name": "colours",
        "network": f"{folder}/network.py:build",
        "weights": str(folder / "w.safetensors"),
        "preprocessing": f"{folder}/own.py:Own",
        "labels": folder / "labels.txt",
        "golden": folder / "golden",
        "engine": "onnxruntime",
        "precision": "fp32",
        "measure_seconds": 0.001,
    }
    return ImportOptions.model_validate({**given, **changes})


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"network": "functional.dropout(logits, 0.5)"}, "unstable-reference"),
        ({"network": "logits - logits.mean(dim=0)"}, "batch-dependent"),
        ({"network": "logits * 0 + 2 * self.linear.weight[:, 0]"}, "constant-logits"),
        ({"own": "pixels + np.random.randint(0, 9, (4, 4, 3), np.uint8)"}, "random-preprocessing"),
        ({"own": "pixels[..., ::-1]"}, "permuted-labels|channel-order"),
        ({"labels": "brg"}, "permuted-labels"),
    ],
)
def test_an_implausible_import_is_refused_and_leaves_nothing(
    store: Path, tmp_path: Path, changes: dict[str, object], finding: str
) -> None:
    with pytest.raises(ImportRefused, match=f"--accept ({finding})"):
        import_quietly(options(tmp_path, **changes), tmp_path / "model.lock")

    assert not (tmp_path / "model.lock").exists()
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_mean_and_std_of_another_scale_are_refused(store: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("{crop: 4, mean: [127, 127, 127], std: [58, 58, 58]}")

    with pytest.raises(ImportRefused, match=r"divide by 255: mean \[0\.498.*mean-std-scale"):
        import_quietly(
            options(tmp_path, preprocessing=str(tmp_path / "spec.yaml")), tmp_path / "model.lock"
        )


def test_a_sound_import_and_an_accepted_one_say_what_they_rest_on(
    store: Path, tmp_path: Path
) -> None:
    sound = import_quietly(options(tmp_path), tmp_path / "model.lock")
    accepted = import_quietly(
        options(tmp_path, labels="brg", accept="permuted-labels"), tmp_path / "model.lock"
    )

    assert sound.proof[0] == "reference: 12 of 12 labelled images right (100.0%)"
    assert "no --reference" in sound.proof[1]
    assert accepted.proof[0] == "reference: 0 of 12 labelled images right (0.0%)"
    assert accepted.proof[-1] == "accepted without proof: permuted-labels"
