"""Weights of a network: read without running anything, loaded strictly."""

import argparse
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from image_classifier.artifact.format import sha256_file
from importer.errors import ImportRefused
from importer.failures import one_line

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
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Segments that torch.compile, DataParallel, FSDP and activation checkpointing put into names."""
TOOL_NAMES = ("total_ops", "total_params", "n_averaged")
"""Buffers that thop and torch.optim.swa_utils add to a network; no output depends on them."""
EXTRA_STATE = "_extra_state"
"""Last segment of what `Module.get_extra_state` saves; it may be any plain value."""
MAX_DEPTH = 4


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The weights of one network, as read.

    Attributes:
        path: The file.
        tensors: Name → tensor on the CPU, in the order of the file, dtype as in the file.
        extra_state: Name → what a module saved beside its tensors.
        found_at: Where in the file they lie, levels divided by "/"; empty: at the top.
        alternatives: Other places in the file that hold weights; `key` chooses among them.
        ignored: Names that were left out because `ignore` says so.
        versions: Format version of each module (`_metadata` of a state dict), for the
            migrations that modules bring with them; None where the file has none.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    extra_state: Mapping[str, object]
    found_at: str
    alternatives: tuple[str, ...]
    ignored: tuple[str, ...]
    versions: Mapping[str, Mapping[str, Any]] | None


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What happened to the names of a checkpoint when it was loaded.

    Attributes:
        ignored: Names in the file that the network did not get.
        notes: Sentences for the operator.
    """

    ignored: tuple[str, ...]
    notes: tuple[str, ...]


# Reading


def read_state_dict(
    path: Path, *, key: str | None = None, prefix: str = "", ignore: Sequence[str] = ()
) -> Checkpoint:
    """Read the weights of one network from a checkpoint.

    `.safetensors`, any file of `torch.save` (zip or the format before torch 1.6; a bare state
    dict or a training checkpoint), or the `*.index.json` of shards. Files are told apart by
    content. Always `weights_only`: what needs pickle is refused and nothing in it runs.
    Tensors come to the CPU; of zip and safetensors files they stay on disk, memory-mapped,
    until they are used, so the file must not change while they are.

    Args:
        path: The file. Where its name ends in the start of a sha256, as
            `resnet50-11ad3fa6.pth` does, that is checked first.
        key: Where the weights lie, levels divided by "/", e.g. "model_ema"; None: averaged
            (EMA) weights win over raw ones, because training reports the accuracy of the
            average where it keeps one; among each, the first of `EMA_NAMES` and `RAW_NAMES`.
        prefix: Take only the tensors whose name starts so, e.g. "ema_model.", and cut it off.
        ignore: Shell patterns of names to leave out, e.g. "aux_head.*".

    Raises:
        ImportRefused: The file is missing, damaged, of another kind, needs pickle, or holds
            no weights.
    """
    _refuse_unreadable(path)
    check_published_digest(path)
    places = dict(_state_dicts(content := _content(path)))
    found_at = _chosen_place(places, key, content, path)
    entries = places[found_at]
    where = f"{path}: {f'key {found_at!r}' if found_at else 'the file'}"
    if odd := [name for name in entries if not (isinstance(name, str) and name.isprintable())]:
        raise ImportRefused(f"{where} holds {odd[0]!r}; expected names")
    taken = {
        name.removeprefix(prefix): item for name, item in entries.items() if name.startswith(prefix)
    }
    if not taken:
        raise ImportRefused(
            f"{where} has no name that starts with {prefix!r}; the first is {next(iter(entries))!r}"
        )
    ignored = _matching(taken, ignore, where)
    kept = {name: item for name, item in taken.items() if name not in ignored}
    extra_state = {name: item for name, item in kept.items() if _last_segment(name) == EXTRA_STATE}
    tensors = {name: item for name, item in kept.items() if name not in extra_state}
    if strangers := [name for name, item in tensors.items() if not isinstance(item, torch.Tensor)]:
        raise ImportRefused(
            f"{where} holds {len(tensors) - len(strangers)} tensors and also {strangers[0]!r} "
            f"({type(tensors[strangers[0]]).__name__}); leave it out with --weights-ignore "
            f"{strangers[0]!r}"
        )
    return Checkpoint(
        path=path,
        tensors=tensors,
        extra_state=extra_state,
        found_at=found_at,
        alternatives=tuple(place for place in places if place != found_at),
        ignored=ignored,
        versions=_versions(entries, prefix),
    )


def check_published_digest(path: Path) -> None:
    """Compare a file with the start of a sha256 at the end of its name, where there is one.

    Eight digits without a letter are rather a date, so only a match would mean something.

    Raises:
        ImportRefused: The name promises another content.
    """
    match = DIGEST_IN_NAME.search(path.name)
    if match is None or match[1].isdecimal():
        return
    actual = sha256_file(path)
    if not actual.startswith(match[1]):
        raise ImportRefused(
            f"{path}: the name says that the sha256 starts with {match[1]}, it is {actual[:16]}…; "
            "the file is damaged or not the published one: fetch it again, or rename it where "
            "the ending is no digest"
        )


DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
"""The convention of torch.hub: the start of the file's sha256 ends its name."""


def _refuse_unreadable(path: Path) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ImportRefused(f"{path}: {error.strerror}; expected a file of weights") from error
    if size == 0:
        raise ImportRefused(f"{path}: empty file; expected weights: copy or fetch it again")


def _content(path: Path) -> Any:
    """What the file holds: tensors by name, or whatever else was saved."""
    if path.name.endswith(INDEX_SUFFIX):
        return _shards(path)
    if shard := SHARD_NAME.fullmatch(path.name):
        return _shards(path.with_name(f"{shard[1]}.{shard[2]}{INDEX_SUFFIX}"))
    return _safetensors(path) if _is_safetensors(path) else _torch_file(path)


INDEX_SUFFIX = ".index.json"
SHARD_NAME = re.compile(r"(.+)-\d{5}-of-(?!00001)\d{5}\.(safetensors|bin)")
"""How Hugging Face names shards; their index is `(1).(2).index.json`."""


def _shards(index: Path) -> dict[str, Any]:
    """All tensors of the shards that an index lists; each must lie beside it."""
    try:
        shards = json.loads(index.read_bytes())["weight_map"]
        names = sorted({str(name) for name in shards.values()})
    except FileNotFoundError as error:
        raise ImportRefused(
            f"{index}: not there; the weights are one shard of several: copy the index and all "
            "shards into one folder"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ImportRefused(f"{index}: not an index of shards, a JSON with weight_map") from error
    tensors: dict[str, Any] = {}
    for name in names:
        shard = index.parent / name
        if Path(name).name != name or not shard.is_file():
            raise ImportRefused(f"{index}: its shard {name!r} is not beside it; copy all shards")
        tensors.update(_safetensors(shard) if _is_safetensors(shard) else _torch_file(shard))
    if missing := sorted(shards.keys() - tensors.keys()):
        raise ImportRefused(f"{index}: lists {missing[0]!r}, which no shard has; fetch them again")
    return tensors


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
        tensors = dict(safetensors.torch.load_file(path, device="cpu"))
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
        raise ImportRefused(
            f"{path}: damaged safetensors file ({one_line(error)}); copy or fetch it again"
        ) from error
    # safetensors.torch.save_model stores a tied tensor once: left-out name → stored name.
    for name, stored in metadata.items():
        if stored in tensors:
            tensors.setdefault(name, tensors[stored])
    return tensors


FINISHED_GRAPH = "a finished graph, which holds its network; leave --network out"
ZIP_MAGIC = b"PK\x03\x04"
FORBIDDEN_GLOBAL = re.compile(r"(?:GLOBAL|class|callable|function) ([\w.]+\.[\w]+)")


def _torch_file(path: Path) -> Any:
    if path.suffix == ".safetensors":  # torch.load goes by this name, and would misread the file
        raise ImportRefused(
            f"{path}: not a safetensors file in spite of its name; where torch.save wrote it, call "
            "it .pt, else copy or fetch it again"
        )
    if path.suffix == ".onnx":
        raise ImportRefused(f"{path}: {FINISHED_GRAPH}")
    with path.open("rb") as file:
        is_zip = file.read(4) == ZIP_MAGIC
    if is_zip:
        _refuse_other_archive(path)
    try:
        # mmap needs the zip format: a training checkpoint with its optimizer state is three
        # times the weights, and only the weights are ever read.
        with torch.serialization.safe_globals(PLAIN_DATA):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise _refused_pickle(path, str(error)) from error
    # Hostile or cut bytes reach the unpickler's own stack machine: EOFError, RuntimeError,
    # KeyError, AttributeError, struct.error, UnicodeDecodeError and more were seen.
    except Exception as error:
        raise ImportRefused(
            f"{path}: not a complete checkpoint ({type(error).__name__}: {one_line(error)}); "
            "expected a file of torch.save or safetensors: copy or fetch it again"
        ) from error


class PlainValue:
    """Stands for a value beside the weights, such as a date or a path; holds nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def plain_dict(*_: object) -> OrderedDict[str, Any]:
    """Stand for `collections.defaultdict`: the items are filled in, the factory is dropped."""
    return OrderedDict()


PLAIN_VALUES = {
    "builtins": ("bool", "dict", "float", "int", "list", "str", "tuple"),
    "collections": ("deque",),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "pathlib": ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    "uuid": ("UUID",),
}
"""Module → classes and functions that make plain values."""
PLAIN_DATA: list[Any] = [
    argparse.Namespace,
    (plain_dict, "collections.defaultdict"),
    *((PlainValue, f"{module}.{name}") for module, names in PLAIN_VALUES.items() for name in names),
]
"""What training scripts keep beside the weights. None of the real classes is called: an empty
stand-in takes the place of the value, which nothing here needs. `argparse.Namespace` has
attributes and no code that reading runs."""


def zip_members(path: Path) -> list[zipfile.ZipInfo]:
    """Return what a zip archive lists; empty where `path` is none or its list is damaged."""
    try:
        with path.open("rb") as file:
            if file.read(4) != ZIP_MAGIC:
                return []
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    # A damaged list raises BadZipFile, but also UnicodeDecodeError, struct.error and more.
    except Exception:
        return []


def is_torchscript(path: Path) -> bool:
    """Return whether `path` is an archive of `torch.jit.save`: a zip with code and constants."""
    names = [member.filename for member in zip_members(path)]
    roots = {name.partition("/")[0] for name in names}
    return len(roots) == 1 and {"constants.pkl", "code"} <= {
        name.split("/")[1] for name in names if name.count("/")
    }


def _refuse_other_archive(path: Path) -> None:
    """Take only what torch.save writes: stored, not compressed, which also bounds memory."""
    if is_torchscript(path):
        raise ImportRefused(f"{path}: {FINISHED_GRAPH}")
    members = zip_members(path)
    if not members:
        raise ImportRefused(f"{path}: damaged archive, cut short perhaps; copy or fetch it again")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ImportRefused(
            f"{path}: a compressed zip archive, which torch.save does not write; unpack it and "
            "import the checkpoint inside"
        )
    if not any(member.filename.endswith("data.pkl") for member in members):
        names = ", ".join(member.filename for member in members[:3])
        raise ImportRefused(
            f"{path}: a zip archive without tensors (it holds {names}); expected a file of "
            "torch.save or safetensors"
        )


def _refused_pickle(path: Path, message: str) -> ImportRefused:
    found = FORBIDDEN_GLOBAL.search(message)
    if found is None:
        reason = message.partition("WeightsUnpickler error:")[2] or message
        return ImportRefused(
            f"{path}: not a checkpoint of plain tensors ({one_line(reason)}); nothing was run. "
            "Expected a file of torch.save or safetensors: copy or fetch it again"
        )
    return ImportRefused(
        f"{path}: needs pickle (it refers to {found[1]}), which can run any program; nothing was "
        "run. Where the training code is at hand, run there "
        "safetensors.torch.save_model(model, 'weights.safetensors') and import that file. Where "
        "only this file is, and you trust whoever made it, run where it was made: import torch; "
        f"c = torch.load({path.name!r}, map_location='cpu', weights_only=False); "
        "c = c.get('state_dict', c.get('model', c)) if isinstance(c, dict) else c; "
        "torch.save(c if isinstance(c, dict) else c.state_dict(), 'weights.pt')"
    )


# Finding the weights in what was read


def _state_dicts(content: object, place: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield mappings of names to at least one tensor, outermost first; none inside another."""
    if not isinstance(content, Mapping) or depth > MAX_DEPTH:
        return
    entries = {name: item for name, item in content.items() if isinstance(name, str)}
    if any(isinstance(item, torch.Tensor) for item in entries.values()):
        nested = any(isinstance(entries.get(name), Mapping) for name in (*EMA_NAMES, *RAW_NAMES))
        # A training checkpoint may keep a tensor of its own beside the weights: a loss, a seed.
        if not nested:
            yield place, content
            return
    for name, item in entries.items():
        if not name.startswith(TRAINING_STATE):
            yield from _state_dicts(item, f"{place}/{name}" if place else name, depth + 1)


TRAINING_STATE = ("optim", "lr_sched", "sched", "scaler", "amp", "loops", "callbacks")
"""Optimizers, schedulers and scalers keep tensors too, under no name of a weight."""


def _chosen_place(
    places: Mapping[str, Mapping[str, Any]], key: str | None, content: object, path: Path
) -> str:
    there = ", ".join(place for place in places if place) or "none"
    if key is not None:
        if key not in places:
            raise ImportRefused(f"{path}: no weights at key {key!r}; weights are at: {there}")
        return key
    by_name = [
        place
        for name in (*EMA_NAMES, *RAW_NAMES)
        for place in places
        if name == place.partition("/")[0]
    ]
    if len(places) == 1:
        return next(iter(places))
    if by_name:
        return by_name[0]
    if places:
        raise ImportRefused(
            f"{path}: weights at several keys ({there}); name one with --weights-key"
        )
    raise ImportRefused(
        f"{path}: holds no weights ({_outline(content)}); expected a state dict: names → tensors"
    )


def _outline(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    shown = ", ".join(f"{name!r}: {type(item).__name__}" for name, item in [*content.items()][:8])
    return f"it has {shown}" if shown else "it is empty"


def _matching(names: Collection[str], patterns: Sequence[str], where: str) -> tuple[str, ...]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ImportRefused(f"{where} has no name like {pattern!r}; take --weights-ignore out")
    return tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def _versions(entries: object, prefix: str) -> Mapping[str, Mapping[str, Any]] | None:
    metadata = getattr(entries, "_metadata", None)
    if not isinstance(metadata, Mapping):
        return None
    # Modules are listed without the final dot: "module" is the network itself.
    return {
        f"{name}."[len(prefix) :].removesuffix("."): version
        for name, version in metadata.items()
        if isinstance(name, str) and f"{name}.".startswith(prefix) and isinstance(version, Mapping)
    }


# Loading


def load_strictly(network: torch.nn.Module, checkpoint: Checkpoint) -> Loaded:
    """Give `network` the weights of `checkpoint`; every name and every shape must fit.

    Wrappers (`WRAPPERS`) anywhere in a name, and a prefix that all names share, are bridged
    where the names then fit. A tensor that the network ties to another may be left out.
    `TOOL_NAMES` are ignored. The modules' own migrations of older names run first.

    The values are copied into the tensors the network has, so its dtype stays: half precision
    and bfloat16 widen to float32 exactly, float64 is rounded. Memory holds the weights twice
    until the caller drops the checkpoint; nothing refers to the file any more after that.
    After an error the network holds some of the weights and is of no use.

    Raises:
        ImportRefused: Names or shapes differ, listed like a diff; a tensor is not dense, or of
            another kind of dtype; a parameter or a running statistic is not finite.
    """
    expected: dict[str, Any] = network.state_dict()
    reading = _best_reading([*checkpoint.tensors], expected)
    names = {name: reading.network_name(name) for name in checkpoint.tensors}
    unused = [
        name
        for name, found in names.items()
        if _last_segment(name) in TOOL_NAMES and found not in expected
    ]
    tensors = {
        names[name]: tensor for name, tensor in checkpoint.tensors.items() if name not in unused
    }
    misshapen = _misshapen(tensors, expected)
    fitting = {name: tensor for name, tensor in tensors.items() if name not in misshapen}
    for name, tensor in fitting.items():
        _check_kind(f"{checkpoint.path}: {name}", tensor, expected.get(name))
    tied = _tied_names(expected)
    _check_tied(checkpoint.path, fitting, tied)
    extra_state = {
        reading.network_name(name): item for name, item in checkpoint.extra_state.items()
    }
    extra_state = {name: item for name, item in extra_state.items() if name in expected}
    versions = reading.network_versions(checkpoint.versions, network)
    missing, unexpected = _copied(network, {**fitting, **extra_state}, versions, checkpoint.path)
    missing = [name for name in missing if not tied.get(name, set()) & fitting.keys()]
    missing = [name for name in missing if name not in misshapen]
    if missing or unexpected or misshapen:
        shapes = [f"{name}: {difference}" for name, difference in misshapen.items()]
        remedy = _remedy(missing, unexpected, tensors, expected, checkpoint)
        raise ImportRefused(_diff(checkpoint.path, missing, unexpected, shapes, remedy))
    _check_finite(network, checkpoint.path)
    return Loaded(
        ignored=(*checkpoint.ignored, *unused, *(checkpoint.extra_state.keys() - extra_state)),
        notes=(*_place_notes(checkpoint), *reading.notes(), *_unused_notes(checkpoint, unused)),
    )


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """One way to read the names of a file as names of a network.

    Attributes:
        by_plain_name: Name of the network without wrapper segments → the name.
        cut: What every name in the file starts with and the network's names do not.
        added: What every name of the network starts with and the file's names do not.
    """

    by_plain_name: Mapping[str, str]
    cut: str
    added: str

    def network_name(self, name: str) -> str:
        plain = self.added + _without_wrappers(name).removeprefix(self.cut)
        if plain not in self.by_plain_name:
            plain = OLD_DENSENET_NAME.sub(r"\1\2", plain)
        return self.by_plain_name.get(plain, plain)

    def network_versions(
        self, versions: Mapping[str, Mapping[str, Any]] | None, network: torch.nn.Module
    ) -> Mapping[str, Mapping[str, Any]] | None:
        if versions is None:
            return None
        modules = {_without_wrappers(f"{name}."): name for name, _ in network.named_modules()}
        found = {}
        for name, version in versions.items():
            plain = self.added + _without_wrappers(f"{name}.").removeprefix(self.cut)
            if plain in modules:
                found[modules[plain]] = version
        return {"": found.get("", {}), **found}

    def notes(self) -> Iterator[str]:
        if self.cut:
            yield f"all names of the weights start with {self.cut!r}, which was cut off"
        if self.added:
            yield f"{self.added!r} was put in front of all names of the weights"


OLD_DENSENET_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$")
"""torchvision's published DenseNets say `norm.1` where the network says `norm1`."""


def _best_reading(names: Sequence[str], expected: Collection[str]) -> _Reading:
    """Choose the reading of the file's names under which most of them are the network's."""
    by_plain_name: dict[str, str] = {}
    for name in expected:
        by_plain_name.setdefault(_without_wrappers(name), name)
    own = [_without_wrappers(name) for name in names if _last_segment(name) not in TOOL_NAMES]
    readings = [
        _Reading(by_plain_name=by_plain_name, cut=cut, added=added)
        for cut in _shared_starts(own)
        for added in _shared_starts(by_plain_name)
    ]
    return max(
        readings, key=lambda reading: sum(reading.network_name(name) in expected for name in names)
    )


def _shared_starts(names: Collection[str]) -> list[str]:
    """Return "" and each run of whole segments that all names start with, shortest first."""
    first = next(iter(names), "")
    ends = [0, *(match.end() for match in re.finditer(r"\.", first))]
    return [first[:end] for end in ends if all(name.startswith(first[:end]) for name in names)]


def _without_wrappers(name: str) -> str:
    return ".".join(segment for segment in name.split(".") if segment not in WRAPPERS)


def _last_segment(name: str) -> str:
    return name.rpartition(".")[2]


def _misshapen(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"shape is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in tensors.items()
        if _has_shape(expected.get(name)) and tensor.shape != expected[name].shape
    }


def _has_shape(item: object) -> bool:
    """Return False for what a lazy layer has: it takes the shape it is given."""
    return isinstance(item, torch.Tensor) and not torch.nn.parameter.is_lazy(item)


def _check_kind(where: str, tensor: torch.Tensor, expected: object) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ImportRefused(
            f"{where}: is quantized, sparse or without data; expected a dense tensor of numbers"
        )
    if isinstance(expected, torch.Tensor) and (
        (tensor.is_floating_point(), tensor.is_complex())
        != (expected.is_floating_point(), expected.is_complex())
    ):
        raise ImportRefused(f"{where}: dtype is {tensor.dtype}, the network has {expected.dtype}")


def _tied_names(expected: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return each name whose tensor lies in the same memory as others' → these others."""
    by_memory: dict[object, set[str]] = {}
    for name, item in expected.items():
        if _has_shape(item) and item.numel():
            memory = (item.device, item.data_ptr(), tuple(item.shape), item.stride())
            by_memory.setdefault(memory, set()).add(name)
    return {
        name: group - {name} for group in by_memory.values() for name in group if group - {name}
    }


def _check_tied(
    path: Path, tensors: Mapping[str, torch.Tensor], tied: Mapping[str, set[str]]
) -> None:
    for name, others in tied.items():
        for other in others & tensors.keys():
            if name in tensors and not torch.equal(tensors[name], tensors[other]):
                raise ImportRefused(
                    f"{path}: {name} and {other} differ, and the network has one tensor for both; "
                    "take the network that these weights were trained in"
                )


def _copied(
    network: torch.nn.Module,
    state: Mapping[str, object],
    versions: Mapping[str, Mapping[str, Any]] | None,
    path: Path,
) -> tuple[list[str], list[str]]:
    """Copy the state into the network; return missing and unexpected names."""
    ordered: OrderedDict[str, Any] = OrderedDict(state)
    # safetensors and EMA copies carry no versions. Modules then run the migrations of their
    # oldest format, except that torchvision's MNASNet, a root, refuses to load without one.
    root = getattr(network.state_dict(), "_metadata", {}).get("", {})
    ordered._metadata = versions or {"": root}  # type: ignore[attr-defined]
    try:
        result = network.load_state_dict(ordered, strict=False)
    except Exception as error:  # shapes behind a migration, an odd version, code of the user's
        raise ImportRefused(f"{path}: does not fit the network: {one_line(error)}") from error
    return list(result.missing_keys), list(result.unexpected_keys)


def _check_finite(network: torch.nn.Module, path: Path) -> None:
    # Other buffers may hold infinities on purpose: attention masks hold minus infinity.
    statistics = [
        (name, tensor)
        for name, tensor in network.named_buffers()
        if _last_segment(name) in ("running_mean", "running_var")
    ]
    for name, tensor in (*network.named_parameters(), *statistics):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ImportRefused(
                f"{path}: {name}: {bad} of {tensor.numel()} values are NaN or infinite "
                f"in {tensor.dtype}; the training diverged or the file is damaged: take an earlier "
                "checkpoint"
            )


def _place_notes(checkpoint: Checkpoint) -> Iterator[str]:
    if checkpoint.alternatives:
        yield (
            f"weights are those at {checkpoint.found_at!r}; there are also "
            f"{', '.join(checkpoint.alternatives)} (--weights-key)"
        )


def _unused_notes(checkpoint: Checkpoint, unused: Sequence[str]) -> Iterator[str]:
    for name in unused:
        if _last_segment(name) == "n_averaged":
            yield f"the weights are an average of {int(checkpoint.tensors[name].sum())} steps"
    tools = sorted({_last_segment(name) for name in unused} - {"n_averaged"})
    if tools:
        count = sum(_last_segment(name) in tools for name in unused)
        yield f"{count} tensors of a tool that counts operations were ignored ({', '.join(tools)})"


# What is wrong, and what to do


MAX_LINES = 8
"""Names shown of each kind of difference; the counts are always whole."""


def _diff(
    path: Path,
    missing: Sequence[str],
    unexpected: Sequence[str],
    shapes: Sequence[str],
    remedy: str,
) -> str:
    parts = [
        f"{path}: does not fit the network: {len(missing)} missing, "
        f"{len(unexpected)} unexpected, {len(shapes)} of another shape "
        "(- the network needs, + the checkpoint has, ! differs)"
    ]
    for sign, names in (("-", missing), ("+", unexpected), ("!", shapes)):
        parts += [f"  {sign} {name}" for name in names[:MAX_LINES]]
        if len(names) > MAX_LINES:
            parts.append(f"  {sign} … and {len(names) - MAX_LINES} more")
    return "\n".join([*parts, remedy])


def _remedy(
    missing: Sequence[str],
    unexpected: Sequence[str],
    tensors: Mapping[str, torch.Tensor],
    expected: Mapping[str, Any],
    checkpoint: Checkpoint,
) -> str:
    if missing and (prefixes := _fitting_prefixes(checkpoint.tensors, expected)):
        starts = " or ".join(repr(prefix) for prefix in prefixes)
        options = " or ".join(f"--weights-prefix {prefix}" for prefix in prefixes)
        return f"Names that start with {starts} fit; take them with {options}."
    if not missing and not unexpected:
        return _remedy_of_shapes(tensors, expected)
    if not missing and not _misshapen(tensors, expected):
        patterns = sorted({f"{name.partition('.')[0]}.*" for name in unexpected})
        return (
            "Turn on the parts of the network that these weights belong to; where it answers "
            f"without them, add --weights-ignore {' --weights-ignore '.join(map(repr, patterns))}."
        )
    return "Take the network that these weights were trained in."


def _remedy_of_shapes(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, Any]) -> str:
    """Name the number of classes where that alone explains the shapes that differ."""
    pairs = [(tensors[name].shape, expected[name].shape) for name in _misshapen(tensors, expected)]
    widths = {(actual[:1], built[:1]) for actual, built in pairs}
    same_otherwise = all(actual[1:] == built[1:] for actual, built in pairs)
    # Weight and bias of a head, and of two auxiliary ones.
    if same_otherwise and len(widths) == 1 and len(pairs) <= 6:
        ((actual, *_), (built, *_)) = next(iter(widths))
        return (
            f"The weights have {actual} outputs, the network was built with {built}. Give it the "
            "arguments it was trained with, such as num_classes: add --network-kwargs "
            f"'{{\"num_classes\": {actual}}}'."
        )
    return "Give the network the arguments it was trained with, such as num_classes or image_size."


def _fitting_prefixes(names: Iterable[str], expected: Collection[str]) -> list[str]:
    """Return the prefixes whose names, without it, are all that the network expects."""
    names = [*names]
    needed = {_without_wrappers(name) for name in expected}
    prefixes = {name[: match.end()] for name in names for match in re.finditer(r"\.", name)}
    return sorted(
        prefix
        for prefix in prefixes
        if needed
        <= {_without_wrappers(name[len(prefix) :]) for name in names if name.startswith(prefix)}
    )
