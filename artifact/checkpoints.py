"""Weights as they come from training, read without running anything they contain.

Where the tensors lie in a training checkpoint is decided by `artifact.checkpoints_contents`,
whether they fit the network by `artifact.checkpoints_loading`.
"""

import argparse
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

from artifact.checkpoints_contents import Checkpoint, checkpoint_in
from artifact.checkpoints_kinds import (
    ZIP_MAGIC,
    is_onnx,
    is_torchscript,
    refuse_foreign_file,
    zip_members,
)
from artifact.digests import sha256_file
from artifact.errors import ArtifactError

DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
"""The convention of torch.hub: the start of the file's sha256 ends its name."""
FORBIDDEN_GLOBAL = re.compile(r"(?:GLOBAL|class|callable|function) ([\w.]+\.[\w]+)")
HARMLESS_CLASSES: list[Any] = [argparse.Namespace]
"""Let through beside torch's own: the training scripts of torchvision and timm keep their
arguments so. It has attributes and no code that unpickling runs."""
SAFE_WAY = (
    "in the notebook that made it, run safetensors.torch.save_file(model.state_dict(), "
    "'weights.safetensors') and import that file"
)


def read_state_dict(path: Path, *, key: str | None = None, prefix: str | None = None) -> Checkpoint:
    """Read the weights of one network from a checkpoint.

    `.safetensors`, or any file of `torch.save`: zip or the format before torch 1.6, a bare
    state dict or a training checkpoint. Files are told apart by content. Always
    `weights_only`: what needs pickle is refused and nothing in it runs. Tensors come to the
    CPU; of zip and safetensors files they stay on disk, memory-mapped, until they are used,
    so the file must not change while they are.

    Args:
        path: The file. Where its name ends in the start of a sha256, as
            `resnet50-11ad3fa6.pth` does, that is checked first.
        key: Where the weights lie, levels divided by "/", e.g. "model_ema"; None: the rule of
            `checkpoint_in`.
        prefix: Take only the tensors whose name starts so, e.g. "ema_model.", and cut it off;
            None: take all, and cut off the wrappers they share.

    Raises:
        ArtifactError: The file is missing, damaged, of another kind, or needs pickle.
    """
    _refuse_unreadable(path)
    check_published_digest(path)
    if is_torchscript(path):
        raise ArtifactError(f"{path}: a TorchScript archive, not weights; import it as a graph")
    if is_onnx(path):
        raise ArtifactError(f"{path}: an ONNX file, not weights; import it as a graph")
    refuse_foreign_file(path)
    content = _safetensors(path) if _is_safetensors(path) else _torch_file(path)
    return checkpoint_in(content, path, key=key, prefix=prefix)


def check_published_digest(path: Path) -> None:
    """Compare a file with the start of a sha256 at the end of its name, where there is one.

    Eight digits without a letter are rather a date, so only a match would mean something.

    Raises:
        ArtifactError: The name promises another content.
    """
    match = DIGEST_IN_NAME.search(path.name)
    if match is None or match[1].isdecimal():
        return
    actual = sha256_file(path)
    if not actual.startswith(match[1]):
        raise ArtifactError(
            f"{path}: the name says that the sha256 starts with {match[1]}, it is {actual[:16]}…; "
            "the file is damaged or not the published one: fetch it again, or rename it where "
            "the ending is no digest"
        )


def _refuse_unreadable(path: Path) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; expected a file of weights") from error
    if size == 0:
        raise ArtifactError(f"{path}: empty file; expected weights: copy or fetch it again")


def _is_safetensors(path: Path) -> bool:
    """8 bytes little-endian length of the header, then the header: a JSON object."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and 0 < length <= 100_000_000


def _safetensors(path: Path) -> dict[str, Any]:
    import safetensors
    import safetensors.torch

    try:
        return dict(safetensors.torch.load_file(path, device="cpu"))
    except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
        raise ArtifactError(
            f"{path}: damaged safetensors file ({_first_line(error)}); copy or fetch it again"
        ) from error


def _torch_file(path: Path) -> Any:
    import torch

    if path.suffix == ".safetensors":  # torch.load goes by this name, and would misread the file
        raise ArtifactError(
            f"{path}: not a safetensors file in spite of its name; where torch.save wrote it, call "
            "it .pt, else copy or fetch it again"
        )
    with path.open("rb") as file:
        is_zip = file.read(4) == ZIP_MAGIC
    if is_zip:
        _refuse_odd_archive(path)
    try:
        # mmap needs the zip format: a training checkpoint with its optimizer state is three
        # times the weights, and only the weights are ever read.
        with torch.serialization.safe_globals(HARMLESS_CLASSES):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise _refused_pickle(path, str(error)) from error
    # Hostile or cut bytes reach the unpickler's own stack machine: EOFError, RuntimeError,
    # KeyError, AttributeError, struct.error, UnicodeDecodeError and more were seen.
    except Exception as error:
        raise ArtifactError(
            f"{path}: not a complete checkpoint ({type(error).__name__}: {_first_line(error)}); "
            "expected a file of torch.save or safetensors: copy or fetch it again"
        ) from error


def _refuse_odd_archive(path: Path) -> None:
    """Only what torch.save writes: stored, not compressed, which also bounds memory."""
    members = zip_members(path)
    if not members:
        raise ArtifactError(f"{path}: damaged archive, cut short perhaps; copy or fetch it again")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ArtifactError(
            f"{path}: a compressed zip archive, which torch.save does not write; unpack it and "
            "import the checkpoint inside"
        )
    if not any(member.filename.endswith("data.pkl") for member in members):
        names = ", ".join(member.filename for member in members[:3])
        raise ArtifactError(
            f"{path}: a zip archive without tensors (it holds {names}); expected a file of "
            "torch.save or safetensors"
        )


def _refused_pickle(path: Path, message: str) -> ArtifactError:
    if found := FORBIDDEN_GLOBAL.search(message):
        return ArtifactError(
            f"{path}: needs pickle (it refers to {found[1]}), which can run any program; nothing "
            f"was run. {SAFE_WAY}"
        )
    return ArtifactError(
        f"{path}: not a checkpoint of plain tensors ({_wo_reason(message)}); nothing was run. "
        f"Copy or fetch it again, or {SAFE_WAY}"
    )


def _wo_reason(message: str) -> str:
    _, _, reason = message.partition("WeightsUnpickler error:")
    return (reason or message).strip().partition("\n")[0][:120]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:160]
