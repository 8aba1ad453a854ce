"""Finished graphs: told by content; TorchScript archives that compute and nothing else."""

import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from image_classifier.artifact.format import ArtifactError
from importer.graphs import check_onnx, load_torchscript
from importer.weights import is_onnx, is_torchscript, read_state_dict
from tests.artifact_inputs.onnx_models import saved_onnx

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated:DeprecationWarning"),
]


class FlatLinear(torch.nn.Module):
    """Sums the channels: logits of an image of ones are (16, 16, 16)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=(2, 3))


class Writer(FlatLinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "victim")
        return x


class Reader(FlatLinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("secret", False, 3)


def torchscript(path: Path, module: torch.nn.Module | None = None) -> Path:
    torch.jit.script(module or FlatLinear()).save(str(path))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    torch.save({"weight": torch.ones(2, 3)}, tmp_path / "a.pt")
    legacy = tmp_path / "b.pt"
    torch.save({"weight": torch.ones(2, 3)}, legacy, _use_new_zipfile_serialization=False)
    safetensors.torch.save_file({"weight": torch.ones(2, 3)}, tmp_path / "c.safetensors")
    (tmp_path / "text").write_text("no model")
    (tmp_path / "empty").touch()
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("net/constants.pkl", b"")
    return {
        "torchscript": torchscript(tmp_path / "d.pt"),
        "onnx": saved_onnx(tmp_path / "e.pt"),
        **{name: tmp_path / name for name in ("a.pt", "b.pt", "c.safetensors", "text", "empty")},
        "zip": tmp_path / "zip",
        "folder": tmp_path,
        "absent": tmp_path / "absent",
    }


def test_the_kind_is_told_by_content(files: dict[str, Path]) -> None:
    assert [name for name, path in files.items() if is_torchscript(path)] == ["torchscript"]
    assert [name for name, path in files.items() if is_onnx(path)] == ["onnx"]


def test_graphs_given_as_weights_are_called_what_they_are(files: dict[str, Path]) -> None:
    with pytest.raises(ArtifactError, match="a TorchScript archive, not weights"):
        read_state_dict(files["torchscript"])
    with pytest.raises(ArtifactError, match="an ONNX file, not weights"):
        read_state_dict(files["onnx"])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x08\x08" + b"\x3a\x00" + b"\x42\x00", True),  # fields 1, 7 (graph), 8 (opset)
        (b"\x08\x08" + b"\x3a\x00", False),
        (b"\x08\x08" + b"\x42\x00", False),
        (b"\x08\x08" + b"\x3a\x00" + b"\x42\x00" + b"\x4a\x00", False),  # 9 is no field of ONNX
    ],
)
def test_other_protobuf_messages_are_no_onnx(tmp_path: Path, data: bytes, expected: bool) -> None:
    (tmp_path / "message").write_bytes(data)

    assert is_onnx(tmp_path / "message") is expected


def test_an_onnx_file_cut_short_is_none(files: dict[str, Path], tmp_path: Path) -> None:
    data = files["onnx"].read_bytes()

    for length in (1, 10, len(data) // 2, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:length])
        assert not is_onnx(tmp_path / "cut")


def test_a_torchscript_archive_computes(files: dict[str, Path]) -> None:
    module = load_torchscript(files["torchscript"])

    assert module(torch.ones(2, 3, 4, 4)).tolist() == [[16.0] * 3] * 2
    assert not module.training


@pytest.mark.parametrize("name", ["onnx", "a.pt", "text", "empty", "zip", "absent", "folder"])
def test_other_files_are_no_torchscript(files: dict[str, Path], name: str) -> None:
    with pytest.raises(ArtifactError, match="not a TorchScript archive"):
        load_torchscript(files[name])


def test_a_damaged_torchscript_archive_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(files["torchscript"]) as source,
        zipfile.ZipFile(tmp_path / "damaged.pt", "w") as target,
    ):
        for member in source.infolist():
            if not member.filename.endswith("data.pkl"):
                target.writestr(member.filename, source.read(member))

    with pytest.raises(ArtifactError, match=r"damaged\.pt: damaged TorchScript archive"):
        load_torchscript(tmp_path / "damaged.pt")


@pytest.mark.parametrize(
    ("module", "call"), [(Writer(), r"torch\.save"), (Reader(), r"torch\.from_file")]
)
def test_a_torchscript_archive_that_reaches_files_is_refused(
    tmp_path: Path, module: torch.nn.Module, call: str
) -> None:
    path = torchscript(tmp_path / "net.pt", module)

    with pytest.raises(ArtifactError, match=f"calls {call}, which reads or writes files"):
        load_torchscript(path)


def test_a_file_that_is_no_onnx_is_refused(files: dict[str, Path]) -> None:
    for name in ("a.pt", "text", "absent", "folder"):
        with pytest.raises(ArtifactError, match="not an ONNX file"):
            check_onnx(files[name])
