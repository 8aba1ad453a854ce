"""Exported files: reproducible, and free of this machine's paths."""

import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from importer.errors import ImportRefused
from importer.export import export_onnx, export_program
from importer.pixels_to_logits import PixelsToLogits
from tests.imports import ROOT
from tests.inference.tiny import INPUT_SPEC, PROGRAM, tiny_inputs, tiny_network
from tests.programs import run_python


def export_both(folder: Path) -> None:
    """Write both graphs of `tiny_network`."""
    network = tiny_network()
    export_onnx(network, tiny_inputs(2), folder / "network.onnx")
    export_program(network, tiny_inputs(2), folder / PROGRAM)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs of `tiny_network`."""
    folder = tmp_path_factory.mktemp("exported")
    export_both(folder)
    return folder


def test_the_files_hold_no_path_of_this_machine(exported: Path) -> None:
    with zipfile.ZipFile(exported / "network.pt2") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    for data in ((exported / "network.onnx").read_bytes(), *members.values()):
        assert str(ROOT).encode() not in data
        assert b"pixels_to_logits.py" not in data


def test_a_program_holds_the_normalisation_but_no_weights(tmp_path: Path) -> None:
    network, untouched = tiny_network(), tiny_network().state_dict()

    export_program(network, tiny_inputs(2), tmp_path / "network.pt2")

    stored = torch.export.load(tmp_path / "network.pt2").state_dict
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, untouched[name])  # the network keeps them
        expected = tensor if name in ("mean", "std") else torch.zeros_like(tensor)
        assert torch.equal(stored[name], expected), name


def test_a_finished_graph_is_not_exported_to_a_program(tmp_path: Path) -> None:
    network = tiny_network()
    with warnings.catch_warnings(action="ignore"):  # torch 2.14 announces the end of TorchScript
        network.network = torch.jit.script(network.network)

    with pytest.raises(ImportRefused, match="no finished graph; give --network"):
        export_program(network, tiny_inputs(2), tmp_path / "network.pt2")


@pytest.mark.all  # tests/artifact/test_identity.py compares another process for the digits
def test_another_process_writes_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    call = f"from tests.importer.test_export import *; export_both(Path({str(tmp_path)!r}))"
    assert run_python(call).returncode == 0

    for name in ("network.onnx", "network.pt2"):
        assert (tmp_path / name).read_bytes() == (exported / name).read_bytes()


class NormalisedNetwork(nn.Module):
    """Batch normalisation after all kinds of layers, and after a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Sequential(nn.Conv2d(3, 6, 1, groups=3, bias=False), nn.BatchNorm2d(6))
        self.transposed = nn.Sequential(
            nn.ConvTranspose2d(6, 6, 2, groups=2), nn.BatchNorm2d(6, eps=0.1)
        )
        self.used_twice = nn.Conv2d(6, 6, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6)])
        self.classify = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, affine=False))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.transposed(self.grouped(pixels))
        twice = self.used_twice(features)
        features = self.norms[0](twice) * self.norms[1](features + twice)
        logits: torch.Tensor = self.classify(features.mean((2, 3)))
        return logits


def test_batch_normalisation_is_folded_where_a_layer_serves_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = NormalisedNetwork()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (module.running_mean, module.running_var, *module.parameters()):
                assert tensor is not None
                tensor.data.uniform_(0.5, 2)
    pixels_to_logits = PixelsToLogits(network, INPUT_SPEC).eval().requires_grad_(False)

    export_onnx(pixels_to_logits, tiny_inputs(2), tmp_path / "network.onnx")

    graph = onnx.load(str(tmp_path / "network.onnx")).graph
    assert [node.op_type for node in graph.node].count("BatchNormalization") == 2
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    (logits,) = session.run(None, {"batch": tiny_inputs(5)})
    expected = pixels_to_logits(torch.from_numpy(tiny_inputs(5))).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
