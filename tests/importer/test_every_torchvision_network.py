"""Every classifier of torchvision: read with its weights and exported, it answers as eager."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from image_classifier.artifact.manifest import InputSpec
from importer.export import export_onnx
from importer.failures import quiet_exporter
from importer.network import read_network
from importer.options import ModelOptions, torchvision_weights
from importer.pixels_to_logits import PixelsToLogits
from importer.torchvision_models import UNSEEN_ARGUMENTS

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)


def side_of(name: str) -> int:
    """The smallest image the network takes, about: 56 for vit_h_14, whose patches have 14."""
    if name.startswith("maxvit"):  # its windows of 7 have to divide what five halvings leave
        return 224
    patch = re.fullmatch(r"vit_._(\d+)", name)
    return 4 * int(patch[1]) if patch else 96  # Inception needs 75


def trained(name: str, kwargs: dict[str, Any]) -> nn.Module:
    """A random network whose every parameter counts: some heads start at zero."""
    import torchvision.models

    torch.manual_seed(0)
    more = {"init_weights": True} if name in UNSEEN_ARGUMENTS else {}
    network: nn.Module = torchvision.models.get_model(name, weights=None, **kwargs, **more).eval()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


def read_equal_to_eager(name: str, folder: Path) -> tuple[PixelsToLogits, np.ndarray, np.ndarray]:
    """Save a network of three classes, read it back; return it, pixels and eager's logits."""
    side = side_of(name)
    kwargs: dict[str, Any] = {"num_classes": 3}
    kwargs |= {"image_size": side} if name.startswith("vit") else {}
    kwargs |= {"transform_input": True} if name in UNSEEN_ARGUMENTS else {}
    eager = trained(name, kwargs)
    torch.save(eager.state_dict(), folder / "weights.pt")
    pixels = PIXELS[:, :side, :side]
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        expected = eager((batch - 0.5) / 0.25)

    options = ModelOptions.model_construct(
        network=f"torchvision:{name}", network_kwargs=kwargs, weights=str(folder / "weights.pt")
    )
    source = read_network(options, folder)

    spec = InputSpec(shape=(side, side, 3), dtype="uint8", mean=(0.5,) * 3, std=(0.25,) * 3)
    network = PixelsToLogits(source.network, spec).eval()
    with torch.inference_mode():
        assert torch.equal(network(torch.from_numpy(pixels)), expected)
    return network, pixels, expected.numpy()


@pytest.mark.parametrize("name", ["googlenet", "regnet_y_400mf"])
def test_a_saved_network_is_read_and_equals_eager(tmp_path: Path, name: str) -> None:
    read_equal_to_eager(name, tmp_path)


@pytest.mark.all
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(torchvision_weights()))
def test_every_saved_network_is_read_and_its_graph_equals_eager(tmp_path: Path, name: str) -> None:
    network, pixels, expected = read_equal_to_eager(name, tmp_path)

    with quiet_exporter("export"):
        export_onnx(network, pixels, tmp_path / "network.onnx")

    session = onnxruntime.InferenceSession(str(tmp_path / "network.onnx"))
    for batch in (pixels, pixels[:1]):
        (logits,) = session.run(None, {"batch": batch})
        difference = np.abs(logits - expected[: len(batch)]) / np.maximum(1, np.abs(logits))
        assert difference.max() <= 1e-3  # the gate of fp32 engines
    for path in tmp_path.iterdir():  # pytest keeps folders; these are up to 2.6 GB
        path.unlink()
