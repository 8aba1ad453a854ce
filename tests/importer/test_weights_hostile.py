"""Hostile, damaged and foreign checkpoints are refused, and nothing in them runs."""

import fractions
import io
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from importer.errors import ImportRefused
from importer.weights import read_state_dict
from tests.importer.linear_graphs import onnx_linear

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


class Payload:
    """Creates a file when it is unpickled, in place of anything a pickle can do."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.file), os.O_CREAT | os.O_WRONLY)


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def save_tar(content: object, path: Path) -> None:
    """The format before torch 0.2: a tar of pickles."""
    data = pickle.dumps(content)
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": torch.save,
    "legacy": save_legacy,
    "safetensors": safetensors.torch.save_file,
}


@pytest.mark.parametrize("save", [torch.save, save_legacy, save_pickle, save_tar])
def test_a_pickle_payload_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[[object, Path], None]
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    victim = tmp_path / "victim"
    payload = Payload(victim)

    for name in ("weights.pt", "weights.safetensors"):
        for content in (payload, {**TENSORS, "extra": payload}):
            save(content, tmp_path / name)
            with pytest.raises(ImportRefused, match=f"{name}: ") as caught:
                read_state_dict(tmp_path / name)
            assert "\n" not in str(caught.value)

    assert not victim.exists()
    pickle.loads(pickle.dumps(payload))
    assert victim.exists()  # the payload is live: with pickle it would have run


@pytest.mark.parametrize("save", [torch.save, save_legacy])
@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"model": TENSORS, "best": fractions.Fraction(1, 3)}, r"fractions\.Fraction"),
        ({**TENSORS, "epoch": object()}, "object"),
        (torch.nn.Linear(3, 2), r"torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_a_refused_pickle_is_named_with_a_safe_alternative(
    tmp_path: Path, save: Callable[[object, Path], None], content: object, name: str
) -> None:
    save(content, tmp_path / "weights.pt")

    with pytest.raises(
        ImportRefused,
        match=rf"needs pickle \(it refers to {name}\).*nothing was run.*"
        r"safetensors\.torch\.save_model\(model, 'weights\.safetensors'\)",
    ):
        read_state_dict(tmp_path / "weights.pt")


def test_the_advice_for_a_pickle_keeps_all_weights_so_that_the_importer_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = torch.nn.Linear(3, 2)
    averaged = {name: item + 1 for name, item in layer.state_dict().items()}
    args = {"best": fractions.Fraction(1, 3)}
    path = tmp_path / "last.pt"
    torch.save({"model": layer, "model_ema": averaged, "args": args, "old": None}, path)
    with pytest.raises(ImportRefused) as refused:
        read_state_dict(path)

    monkeypatch.chdir(tmp_path)
    exec(str(refused.value).partition("run where it was made: ")[2], {})

    checkpoint = read_state_dict(tmp_path / "weights.pt")
    assert torch.equal(checkpoint.state["weight"], averaged["weight"])


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("form", WRITERS)
def test_a_truncated_file_is_refused(tmp_path: Path, form: str, kept: float) -> None:
    path = tmp_path / "weights.pt"
    WRITERS[form]({"weight": torch.zeros(64, 64)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])

    with pytest.raises(ImportRefused, match=r"weights\.pt: .*fetch it again"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        bytes(1000),
        (16).to_bytes(8, "little") + bytes(64),
        b"PK\x05\x06" + bytes(18),
    ],
    ids=["empty", "LFS", "zeros", "header of 16 bytes", "empty zip"],
)
def test_a_file_of_another_kind_is_refused_with_the_expected_kinds(
    tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "weights.pth").write_bytes(data)

    with pytest.raises(ImportRefused, match=r"weights\.pth: not a .*file of torch\.save or safet"):
        read_state_dict(tmp_path / "weights.pth")


def test_finished_graphs_are_recognised(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # torch 2.14 announces the end of TorchScript
        network: Any = torch.jit.script(torch.nn.Linear(3, 2))
        network.save(str(tmp_path / "network.pt"))
    onnx_linear(tmp_path / "network.onnx")

    for name in ("network.pt", "network.onnx"):
        with pytest.raises(ImportRefused, match=f"{name}: a finished graph, .*leave --network out"):
            read_state_dict(tmp_path / name)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1000, 1000)}, tmp_path / "stored.pt")
    with (
        zipfile.ZipFile(tmp_path / "stored.pt") as source,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))

    with pytest.raises(ImportRefused, match="a compressed zip archive"):
        read_state_dict(tmp_path / "bomb.pt")


@pytest.mark.parametrize("name", ["network.pt2", "weights.npz"])
def test_a_program_or_arrays_are_refused_with_what_to_save(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("weight.npy", b"")

    with pytest.raises(ImportRefused, match=r"save .* torch\.save\(network\.state_dict\(\)\)"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("form", WRITERS)
def test_flipped_bytes_never_crash_the_reader(tmp_path: Path, form: str) -> None:
    WRITERS[form](TENSORS, tmp_path / "weights.pt")
    original = (tmp_path / "weights.pt").read_bytes()

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.integers(0, len(original) - 1), st.integers(0, 255)), max_size=4))
    def reads_or_refuses(changes: list[tuple[int, int]]) -> None:
        data = bytearray(original)
        for position, value in changes:
            data[position] = value
        (tmp_path / "damaged.pt").write_bytes(data)
        try:
            read_state_dict(tmp_path / "damaged.pt")
        except ImportRefused as error:
            assert "\n" not in str(error)

    reads_or_refuses()
