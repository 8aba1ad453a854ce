"""Weights as they come from training: read without running anything, loaded strictly."""

import argparse
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from image_classifier.artifact.format import ArtifactError, sha256_file

if TYPE_CHECKING:
    import torch


EMA_NAMES = (
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "model_ema_state_dict",
    "ema_model",
    "ema",
    "averaged_model",
)
RAW_NAMES = ("state_dict", "model_state_dict", "model", "network", "net", "weights", "params")
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""Prefixes of DataParallel, torch.compile and Lightning modules around the network."""
AVERAGED_STEPS = "n_averaged"
"""Counter that torch.optim.swa_utils.AveragedModel keeps beside the weights."""
MAX_DEPTH = 4


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The weights of one network, as read.

    Attributes:
        tensors: Name → tensor on the CPU, in the order of the file, dtype as in the file.
        path: The file.
        found_at: Where in the file they lie, levels divided by "/"; empty: at the top.
        alternatives: Other places in the file that hold weights; `key` chooses among them.
        prefix: What was cut off the front of every name, e.g. "module.".
        averaged_steps: Steps that went into an average of torch.optim.swa_utils, or None.
        versions: Format version of each module (`_metadata` of a state dict), for the
            migrations that modules bring with them; None where the file has none.
    """

    tensors: Mapping[str, "torch.Tensor"]
    path: Path
    found_at: str
    alternatives: tuple[str, ...]
    prefix: str
    averaged_steps: int | None
    versions: Mapping[str, Mapping[str, Any]] | None


def checkpoint_in(
    content: object, path: Path, *, key: str | None, prefix: str | None
) -> Checkpoint:
    """Find the weights in what a file held.

    Without `key`, averaged (EMA) weights win over raw ones, because training reports the
    accuracy of the average where it keeps one; among each, the first of `EMA_NAMES` and
    `RAW_NAMES` does. The result names what else there is.

    Raises:
        ArtifactError: No weights there, or something that is no tensor among them.
    """
    places = dict(_state_dicts(content))
    found_at = _chosen_place(places, key, content, path)
    entries = places[found_at]
    if odd := [name for name in entries if not (isinstance(name, str) and name.isprintable())]:
        raise ArtifactError(f"{path}: {_shown(found_at)} holds {odd[0]!r}; expected names")
    if strangers := [name for name, value in entries.items() if not _is_tensor(value)]:
        kind = type(entries[strangers[0]]).__name__
        raise ArtifactError(
            f"{path}: {_shown(found_at)} holds {len(entries) - len(strangers)} tensors and also "
            f"{strangers[0]!r} ({kind}); save the tensors alone"
        )
    tensors, averaged_steps = _without_counter(dict(entries))
    cut = _common_wrappers(tensors) if prefix is None else prefix
    chosen = {name[len(cut) :]: value for name, value in tensors.items() if name.startswith(cut)}
    if not chosen:
        raise ArtifactError(
            f"{path}: no name in {_shown(found_at)} starts with {cut!r}; the first is "
            f"{next(iter(tensors))!r}"
        )
    return Checkpoint(
        tensors=chosen,
        path=path,
        found_at=found_at,
        alternatives=tuple(place for place in places if place != found_at),
        prefix=cut,
        averaged_steps=averaged_steps,
        versions=_versions(entries, cut),
    )


def _chosen_place(
    places: Mapping[str, Mapping[str, Any]], key: str | None, content: object, path: Path
) -> str:
    there = ", ".join(place for place in places if place) or "none"
    if key is not None:
        if key not in places:
            raise ArtifactError(f"{path}: no weights at key {key!r}; weights are at: {there}")
        return key
    if "" in places:
        return ""
    for name in (*EMA_NAMES, *RAW_NAMES):
        for place in places:
            if name == place.partition("/")[0]:
                return place
    if len(places) == 1:
        return next(iter(places))
    if places:
        raise ArtifactError(
            f"{path}: weights at several keys ({there}); name one with --weights-key"
        )
    raise ArtifactError(
        f"{path}: holds no weights ({_outline(content)}); expected a state dict: names → tensors"
    )


def _state_dicts(content: object, place: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Mappings of names to at least one tensor, outermost first; none inside another."""
    if not isinstance(content, Mapping) or depth > MAX_DEPTH:
        return
    entries = {name: value for name, value in content.items() if isinstance(name, str)}
    if any(_is_tensor(value) for value in entries.values()):
        nested = any(isinstance(entries.get(name), Mapping) for name in (*EMA_NAMES, *RAW_NAMES))
        # A training checkpoint may keep a tensor of its own beside the weights: a loss, a seed.
        if not nested:
            yield place, content
            return
    for name, value in entries.items():
        if not _holds_optimizer(name):
            yield from _state_dicts(value, f"{place}/{name}" if place else name, depth + 1)


def _holds_optimizer(name: str) -> bool:
    """Optimizer, scheduler and scaler states hold tensors too, under no name of a weight."""
    return name.startswith(("optim", "lr_sched", "sched", "scaler", "amp", "loops", "callbacks"))


def _without_counter(tensors: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
    counter = tensors.get(AVERAGED_STEPS)
    if counter is None or counter.numel() != 1 or len(tensors) == 1:
        return tensors, None
    del tensors[AVERAGED_STEPS]
    return tensors, int(counter.item())


def _common_wrappers(tensors: Mapping[str, Any]) -> str:
    """The wrappers that every name starts with, outermost first, e.g. "module._orig_mod."."""
    cut = ""
    while True:
        for wrapper in WRAPPERS:
            if all(name.startswith(cut + wrapper) for name in tensors):
                cut += wrapper
                break
        else:
            return cut


def _versions(entries: object, cut: str) -> Mapping[str, Mapping[str, Any]] | None:
    metadata = getattr(entries, "_metadata", None)
    if not isinstance(metadata, Mapping):
        return None
    # Modules are listed without the final dot: "module" is the network itself.
    return {
        f"{name}."[len(cut) :].removesuffix("."): version
        for name, version in metadata.items()
        if isinstance(name, str) and f"{name}.".startswith(cut) and isinstance(version, Mapping)
    }


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _shown(found_at: str) -> str:
    return f"key {found_at!r}" if found_at else "the file"


def _outline(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    shown = ", ".join(f"{name!r}: {type(value).__name__}" for name, value in [*content.items()][:8])
    return f"it has {shown}" if shown else "it is empty"


ZIP_MAGIC = b"PK\x03\x04"
FOREIGN_STARTS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself; run `git lfs pull`"),
    (b"<!doctype html", "a web page, saved in place of the file; fetch the file itself"),
    (b"<html", "a web page, saved in place of the file; fetch the file itself"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"\x89hdf", "an HDF5 file, as Keras writes; expected weights of PyTorch"),
    (b"gguf", "a GGUF file; expected weights of PyTorch"),
)
# Field numbers of ModelProto, onnx.proto3 of ONNX 1.23; 7 is the graph, 8 the opset imports.
ONNX_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
ONNX_NEEDED = frozenset({7, 8})


def is_torchscript(path: Path) -> bool:
    """Whether `path` is an archive of `torch.jit.save`: a zip with code and constants."""
    names = [member.filename for member in zip_members(path)]
    roots = {name.partition("/")[0] for name in names}
    return len(roots) == 1 and {"constants.pkl", "code"} <= {
        name.split("/")[1] for name in names if name.count("/")
    }


def is_onnx(path: Path) -> bool:
    """Whether `path` is a serialised ONNX ModelProto, by its outermost fields.

    Nothing but tags and lengths is read, so a file of any size costs no memory.
    """
    fields = set()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            while file.tell() < size:
                fields.add(_skipped_field(file, size))
    except (OSError, ValueError):
        return False
    return ONNX_NEEDED <= fields <= ONNX_FIELDS


def refuse_foreign_file(path: Path) -> None:
    """Raise where the file is one of the things often given in place of weights.

    Raises:
        ArtifactError: Says what it is and what to do.
    """
    with path.open("rb") as file:
        start = file.read(32).lstrip().lower()
    for magic, remedy in FOREIGN_STARTS:
        if start.startswith(magic):
            raise ArtifactError(f"{path}: {remedy}")
    if any(member.filename.endswith("/models/model.json") for member in zip_members(path)):
        raise ArtifactError(f"{path}: a file of torch.export.save; expected a state dict")


def zip_members(path: Path) -> list[zipfile.ZipInfo]:
    """What a zip archive lists; empty where `path` is no zip archive or its list is damaged."""
    try:
        with path.open("rb") as file:
            if file.read(4) != ZIP_MAGIC:
                return []
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    # A damaged list raises BadZipFile, but also UnicodeDecodeError, struct.error and more.
    except Exception:
        return []


def _skipped_field(file: BinaryIO, size: int) -> int:
    """Number of the protobuf field at the file's position; the position moves behind it.

    Raises:
        ValueError: No protobuf, or a field that ends behind the end of the file.
    """
    tag = _varint(file)
    wire = tag & 7
    if wire == 0:
        _varint(file)
    elif wire == 2:
        length = _varint(file)
        file.seek(length, 1)
    else:  # ModelProto has no fixed-width field
        raise ValueError(f"wire type {wire}")
    if file.tell() > size:
        raise ValueError("cut short")
    return tag >> 3


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("cut short")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("varint too long")


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


MAX_LINES = 8
"""Names shown of each kind of difference; the counts are always whole."""
OLD_DENSENET_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$")
"""torchvision's published DenseNets say `norm.1` where the network says `norm1`."""


def load_strictly(network: "torch.nn.Module", checkpoint: Checkpoint) -> None:
    """Give `network` the weights of `checkpoint`; every name and every shape must fit.

    The values are copied into the tensors the network has, so its dtype stays: half precision
    and bfloat16 widen to float32 exactly, float64 is rounded. Memory holds the weights twice
    until the caller drops the checkpoint; nothing refers to the file any more after that, so
    a training run that overwrites it does no harm. The modules' own migrations of older names
    run first. The wrappers that `read_state_dict` cut off are put back as far as the network
    has them itself. After an error the network holds some of the weights and is of no use.

    Raises:
        ArtifactError: Names or shapes differ, listed like a diff; a tensor is not dense, of
            another kind of dtype, or not finite.
    """
    checkpoint = _with_fitting_names(checkpoint, network)
    expected = network.state_dict()
    tensors = checkpoint.tensors
    misshapen = {
        name: f"{name}: shape is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name].shape
    }
    fitting = {name: tensor for name, tensor in tensors.items() if name not in misshapen}
    for name, tensor in fitting.items():
        _check_kind(f"{checkpoint.path}: {name}", tensor, expected.get(name))
    missing, unexpected = _copied(network, fitting, checkpoint)
    missing = [name for name in missing if name not in misshapen]
    if missing or unexpected or misshapen:
        raise ArtifactError(_diff(checkpoint, missing, unexpected, [*misshapen.values()]))
    _check_finite(network, checkpoint)


def _copied(
    network: "torch.nn.Module", tensors: Mapping[str, "torch.Tensor"], checkpoint: Checkpoint
) -> tuple[list[str], list[str]]:
    """Missing and unexpected names, after the tensors went into the network."""
    state: OrderedDict[str, Any] = OrderedDict(tensors)
    # safetensors and EMA copies carry no versions. Modules then run the migrations of their
    # oldest format, except that torchvision's MNASNet, a root, refuses to load without one.
    root = getattr(network.state_dict(), "_metadata", {}).get("", {})
    state._metadata = checkpoint.versions or {"": root}  # type: ignore[attr-defined]
    try:
        result = network.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:  # shapes behind a migration, or an odd version
        raise ArtifactError(
            f"{checkpoint.path}: does not fit the network: {' '.join(str(error).split())}"
        ) from error
    return list(result.missing_keys), list(result.unexpected_keys)


def _with_fitting_names(checkpoint: Checkpoint, network: "torch.nn.Module") -> Checkpoint:
    """The checkpoint with as much of the cut prefix put back as matches most names."""
    expected = network.state_dict().keys()
    ends = [match.end() for match in re.finditer(r"\.", checkpoint.prefix)]
    candidates = ["", *(checkpoint.prefix[end:] for end in [*reversed(ends[:-1]), 0] if ends)]
    kept = max(
        candidates,
        key=lambda part: sum(part + name in expected for name in checkpoint.tensors),
    )
    names = {name: _current_name(kept + name, expected) for name in checkpoint.tensors}
    versions = checkpoint.versions
    if versions is not None and kept:
        versions = {f"{kept}{name}".removesuffix("."): entry for name, entry in versions.items()}
    return replace(
        checkpoint,
        tensors={names[name]: tensor for name, tensor in checkpoint.tensors.items()},
        prefix=checkpoint.prefix.removesuffix(kept),
        versions=versions,
    )


def _current_name(name: str, expected: "Sequence[str] | Any") -> str:
    current = OLD_DENSENET_NAME.sub(r"\1\2", name)
    return current if name not in expected and current in expected else name


def _check_kind(where: str, tensor: "torch.Tensor", expected: "torch.Tensor | None") -> None:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ArtifactError(
            f"{where}: is quantized, sparse or without data; expected a dense tensor of numbers"
        )
    if expected is not None and _kind(tensor) != _kind(expected):
        raise ArtifactError(f"{where}: dtype is {tensor.dtype}, the network has {expected.dtype}")


def _kind(tensor: "torch.Tensor") -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _check_finite(network: "torch.nn.Module", checkpoint: Checkpoint) -> None:
    import torch

    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ArtifactError(
                f"{checkpoint.path}: {name}: {bad} of {tensor.numel()} values are NaN or infinite "
                f"in {tensor.dtype}; the training diverged or the file is damaged: take an earlier "
                "checkpoint"
            )


def _diff(
    checkpoint: Checkpoint, missing: Sequence[str], unexpected: Sequence[str], shapes: Sequence[str]
) -> str:
    parts = [
        f"{checkpoint.path}: does not fit the network: {len(missing)} missing, "
        f"{len(unexpected)} unexpected, {len(shapes)} of another shape "
        "(- the network needs, + the checkpoint has, ! differs)"
    ]
    for sign, names in (("-", missing), ("+", unexpected), ("!", shapes)):
        parts += [f"  {sign} {name}" for name in names[:MAX_LINES]]
        if len(names) > MAX_LINES:
            parts.append(f"  {sign} … and {len(names) - MAX_LINES} more")
    parts.append(_remedy(missing, unexpected, shapes))
    return "\n".join(parts)


def _remedy(missing: Sequence[str], unexpected: Sequence[str], shapes: Sequence[str]) -> str:
    for wrapper in WRAPPERS:
        inside = {name[len(wrapper) :] for name in unexpected if name.startswith(wrapper)}
        if missing and inside >= set(missing):
            return (
                f"Names that start with {wrapper!r} fit; take them with --weights-prefix {wrapper}."
            )
    if shapes and not missing and not unexpected:
        return "Give the network the arguments it was trained with, such as num_classes."
    if unexpected and not missing and not shapes:
        return "Turn on the parts of the network that these weights belong to."
    return "Take the network that these weights were trained in."
