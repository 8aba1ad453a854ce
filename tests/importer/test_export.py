"""Exported files: complete, the same from anywhere, and free of this machine's paths."""

import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from importer.errors import ImportRefused
from importer.export import export_onnx, export_program
from tests.imports import PATIENCE_S, ROOT
from tests.inference.tiny import tiny_inputs, tiny_network

EXPORT = """
import sys
from pathlib import Path
from importer.export import export_onnx, export_program
from tests.inference.tiny import tiny_inputs, tiny_network

export_onnx(tiny_network(), tiny_inputs(2), Path(sys.argv[1]) / "network.onnx")
export_program(tiny_network(), tiny_inputs(2), Path(sys.argv[1]) / "network.pt2")
"""


def test_the_file_is_valid_onnx_with_every_weight_once(tmp_path: Path) -> None:
    network = tiny_network()
    export_onnx(network, tiny_inputs(2), tmp_path / "network.onnx")

    model = onnx.load(tmp_path / "network.onnx")

    onnx.checker.check_model(model, full_check=True)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert len(stored) == len(model.graph.initializer)
    np.testing.assert_array_equal(
        stored["network.4.weight"], network.state_dict()["network.4.weight"].numpy()
    )
    np.testing.assert_array_equal(stored["mean"].ravel(), np.array([0.1, 0.4, 0.6], np.float32))
    assert model.opset_import[0].version == 20


def test_no_path_of_this_machine_is_in_the_files(tmp_path: Path) -> None:
    export_onnx(tiny_network(), tiny_inputs(2), tmp_path / "network.onnx")
    export_program(tiny_network(), tiny_inputs(2), tmp_path / "network.pt2")

    with zipfile.ZipFile(tmp_path / "network.pt2") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    contents = [(tmp_path / "network.onnx").read_bytes(), *members.values()]

    for data in contents:
        assert str(ROOT).encode() not in data
        assert b"pixels_to_logits.py" not in data


def test_a_program_has_no_weights_but_knows_the_normalisation(tmp_path: Path) -> None:
    network = tiny_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    export_program(network, tiny_inputs(2), tmp_path / "network.pt2")

    stored = torch.export.load(tmp_path / "network.pt2").state_dict
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])  # the network itself keeps them
        expected = tensor if name in ("mean", "std") else torch.zeros_like(tensor)
        assert torch.equal(stored[name], expected), name


def test_a_finished_graph_becomes_no_program(tmp_path: Path) -> None:
    network = tiny_network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.14 announces the end of TorchScript
        network.network = torch.jit.script(network.network)

    with pytest.raises(ImportRefused, match="no finished graph; give --network"):
        export_program(network, tiny_inputs(2), tmp_path / "network.pt2")


@pytest.mark.all  # tests/artifact/test_identity.py compares another process for the digits
def test_two_processes_in_two_folders_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", EXPORT, str(tmp_path / name)],
            cwd=ROOT,
            check=True,
            capture_output=True,
            timeout=PATIENCE_S,
        )

    for name in ("network.onnx", "network.pt2"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
