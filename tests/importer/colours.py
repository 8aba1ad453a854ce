"""A network that answers with the strongest colour: an import of twelve tiny images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from importer.options import ImportOptions
from tests.imports import digits_options, spec_file

NETWORK = """import torch
from torch import nn
from torch.nn import functional

DRAWN = torch.rand(3)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(48, 3)
        self.layers = [nn.Linear(3, 3)]
        self.drawn = None
        self.mean = [0.25, 0.5, 0.75]
        self.register_buffer("shift", torch.rand(3), persistent=False)

    def draw(self):
        if self.drawn is None:
            self.drawn = torch.rand(3)
        return self.drawn

    def first_image(self, logits):
        if self.drawn is None:
            self.drawn = logits[0]
        return self.drawn

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
WEIGHTS = {
    "linear.weight": torch.eye(3).repeat_interleave(16, dim=1),  # (3, 48): channel-major
    "linear.bias": torch.zeros(3),
}


def colour_options(
    folder: Path,
    *,
    network: str = "logits",
    own: str = "pixels",
    labels: str = "rgb",
    spec: dict[str, Any] | None = None,
    **more: Any,
) -> ImportOptions:
    """Write the files of an import that would succeed, on one engine.

    Args:
        network: Expression that its forward returns, made from `logits`, the sum of each channel.
        own: Expression that the preprocessing class returns, made from `pixels`, (4, 4, 3).
        labels: One letter each; the golden images are in the folders r, g and b.
        spec: Preprocessing to use instead of the class.
    """
    for number in range(12):
        pixels = np.zeros((4, 4, 3), dtype=np.uint8)
        pixels[..., number % 3] = 100 + number
        path = folder / "golden" / "rgb"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    save_file(WEIGHTS, folder / "w.safetensors")
    (folder / "network.py").write_text(NETWORK.format(answer=network))
    (folder / "own.py").write_text(CLASS.format(answer=own))
    (folder / "labels.txt").write_text("\n".join(labels))
    values: dict[str, Any] = {
        "name": "colours",
        "network": f"{folder}/network.py:build",
        "weights": str(folder / "w.safetensors"),
        "preprocessing": spec_file(folder, spec) if spec else f"{folder}/own.py:Own",
        "labels": str(folder / "labels.txt"),
        "golden": folder / "golden",
        "golden_labels": None,
        "engine": "onnxruntime",
        "precision": "fp32",
    }
    return digits_options(**{**values, **more})


def colour_logits(folder: Path) -> dict[str, np.ndarray]:
    """The logits of each golden image by hand: 16 pixels a channel, mean and std 0.5."""
    rows = {}
    for path in (folder / "golden").rglob("*.png"):
        pixels = np.asarray(Image.open(path)).astype(np.float64) / 255
        rows[path.relative_to(folder / "golden").as_posix()] = ((pixels - 0.5) / 0.5).sum((0, 1))
    return rows
