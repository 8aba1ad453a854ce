"""Exported files: reproducible, and free of this machine's paths."""

import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from importer.errors import ImportRefused
from importer.export import export_onnx, export_program
from tests.imports import ROOT
from tests.inference.tiny import PROGRAM, tiny_inputs, tiny_network
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
