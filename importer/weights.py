"""Weights of a network: read without running anything, loaded strictly."""

import argparse
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
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
        state: Name → tensor on the CPU, in the order of the file, dtype as in the file; or what
            a module saved beside its tensors (`EXTRA_STATE`).
        found_at: Where in the file they lie, levels divided by "/"; empty: at the top.
        alternatives: Other places in the file that hold weights; `key` chooses among them.
        ignored: Names that were left out because `ignore` says so.
        versions: Format version of each module (`_metadata` of a state dict), for the
            migrations that modules bring with them; empty where the file has none.
    """

    path: Path
    state: Mapping[str, Any]
    found_at: str
    alternatives: tuple[str, ...]
    ignored: tuple[str, ...]
    versions: Mapping[str, Mapping[str, Any]]


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
    state = {name: item for name, item in taken.items() if name not in ignored}
    tensors = sum(isinstance(item, torch.Tensor) for item in state.values())
    for name, item in state.items():
        if not isinstance(item, torch.Tensor) and _last_segment(name) != EXTRA_STATE:
            raise ImportRefused(
                f"{where} holds {tensors} tensors and also {name!r} ({type(item).__name__}); "
                f"leave it out with --weights-ignore {name!r}"
            )
    return Checkpoint(
        path=path,
        state=state,
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


def is_torchscript(path: Path) -> bool:
    """Return whether `path` is an archive of `torch.jit.save`: a zip with code and constants."""
    parts = [name.split("/") for name in (member.filename for member in _zip_members(path))]
    inside = {names[1] for names in parts if len(names) > 1}
    return len({names[0] for names in parts}) == 1 and {"constants.pkl", "code"} <= inside


def _zip_members(path: Path) -> list[zipfile.ZipInfo]:
    """Return what a zip archive lists; empty where `path` is none or its list is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    # A damaged list raises BadZipFile, but also UnicodeDecodeError, struct.error and more.
    except Exception:
        return []


def _refuse_other_archive(path: Path) -> None:
    """Take only what torch.save writes: stored, not compressed, which also bounds memory."""
    if is_torchscript(path):
        raise ImportRefused(f"{path}: {FINISHED_GRAPH}")
    members = _zip_members(path)
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
    if not places:
        raise ImportRefused(
            f"{path}: holds no weights ({_outline(content)}); expected a state dict: "
            "names → tensors"
        )
    known = (*EMA_NAMES, *RAW_NAMES)
    by_rank = [place for name in known for place in places if place.partition("/")[0] == name]
    if len(places) > 1 and not by_rank:
        raise ImportRefused(
            f"{path}: weights at several keys ({there}); name one with --weights-key"
        )
    return [*by_rank, *places][0]


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


def _versions(entries: object, prefix: str) -> dict[str, Mapping[str, Any]]:
    metadata = getattr(entries, "_metadata", None)
    # Modules are listed without the final dot: "module" is the network itself.
    return {
        f"{name}."[len(prefix) :].removesuffix("."): version
        for name, version in (metadata.items() if isinstance(metadata, Mapping) else ())
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
    path, expected = checkpoint.path, network.state_dict()
    reading = _best_reading(checkpoint.state, expected)
    names = {name: reading.network_name(name) for name in checkpoint.state}
    unused = [
        name
        for name, own in names.items()
        if own not in expected and _last_segment(name) in (EXTRA_STATE, *TOOL_NAMES)
    ]
    state = {names[name]: item for name, item in checkpoint.state.items() if name not in unused}
    misshapen = _misshapen(state, expected)
    fitting = {name: item for name, item in state.items() if name not in misshapen}
    for name, item in fitting.items():
        _check_kind(f"{path}: {name}", item, expected.get(name))
    present_by_tie = _present_by_tie(path, fitting, expected)
    versions = reading.network_versions(checkpoint.versions, network)
    missing, unexpected = _copied(network, fitting, versions, path)
    missing = [name for name in missing if name not in {*present_by_tie, *misshapen}]
    if missing or unexpected or misshapen:
        remedy = _remedy(missing, unexpected, misshapen, checkpoint.state, expected)
        shapes = [
            f"{name}: shape is {actual}, expected {built}"
            for name, (actual, built) in misshapen.items()
        ]
        raise ImportRefused(_diff(path, missing, unexpected, shapes, remedy))
    _check_finite(network, path)
    return Loaded(
        ignored=(*checkpoint.ignored, *unused),
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

    def _plain(self, name: str) -> str:
        return self.added + _without_wrappers(name).removeprefix(self.cut)

    def network_name(self, name: str) -> str:
        plain = self._plain(name)
        if plain not in self.by_plain_name:
            plain = OLD_DENSENET_NAME.sub(r"\1\2", plain)
        return self.by_plain_name.get(plain, plain)

    def network_versions(
        self, versions: Mapping[str, Mapping[str, Any]], network: torch.nn.Module
    ) -> Mapping[str, Mapping[str, Any]]:
        """Return the versions by the network's names of modules."""
        # safetensors and EMA copies carry no versions. Modules then run the migrations of their
        # oldest format, except that torchvision's MNASNet, a root, refuses to load without one.
        root = getattr(network.state_dict(), "_metadata", {}).get("", {})
        by_plain = {self._plain(name and f"{name}."): item for name, item in versions.items()}
        modules = {
            name: _without_wrappers(name and f"{name}.") for name, _ in network.named_modules()
        }
        return {"": root} | {
            name: by_plain[plain] for name, plain in modules.items() if plain in by_plain
        }

    def notes(self) -> Iterator[str]:
        if self.cut:
            yield f"all names of the weights start with {self.cut!r}, which was cut off"
        if self.added:
            yield f"{self.added!r} was put in front of all names of the weights"


OLD_DENSENET_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$")
"""torchvision's published DenseNets say `norm.1` where the network says `norm1`."""


def _best_reading(names: Collection[str], expected: Collection[str]) -> _Reading:
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


def _misshapen(
    state: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return name → shape in the file and in the network, where they differ."""
    return {
        name: (tuple(item.shape), tuple(expected[name].shape))
        for name, item in state.items()
        if _has_shape(item) and _has_shape(expected.get(name))
        if item.shape != expected[name].shape
    }


def _has_shape(item: object) -> bool:
    """Return False for what a lazy layer has: it takes the shape it is given."""
    return isinstance(item, torch.Tensor) and not torch.nn.parameter.is_lazy(item)


def _check_kind(where: str, item: object, expected: object) -> None:
    if not isinstance(item, torch.Tensor):  # extra state
        return
    if item.layout != torch.strided or item.is_quantized or item.device.type != "cpu":
        raise ImportRefused(
            f"{where}: is quantized, sparse or without data; expected a dense tensor of numbers"
        )
    if isinstance(expected, torch.Tensor) and (
        (item.is_floating_point(), item.is_complex())
        != (expected.is_floating_point(), expected.is_complex())
    ):
        raise ImportRefused(f"{where}: dtype is {item.dtype}, the network has {expected.dtype}")


def _present_by_tie(path: Path, state: Mapping[str, Any], expected: Mapping[str, Any]) -> set[str]:
    """Return the names whose tensor the network shares with a name that the file has.

    Raises:
        ImportRefused: The file has different values for two names of one tensor.
    """
    by_memory: dict[object, list[str]] = {}
    for name, item in expected.items():
        if _has_shape(item) and item.numel():
            memory = (item.device, item.data_ptr(), tuple(item.shape), item.stride())
            by_memory.setdefault(memory, []).append(name)
    present: set[str] = set()
    for group in by_memory.values():
        there = [name for name in group if name in state]
        for name in there[1:]:
            if not torch.equal(state[there[0]], state[name]):
                raise ImportRefused(
                    f"{path}: {there[0]} and {name} differ, and the network has one tensor for "
                    "both; take the network that these weights were trained in"
                )
        present.update(group if there else ())
    return present


def _copied(
    network: torch.nn.Module,
    state: Mapping[str, object],
    versions: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> tuple[list[str], list[str]]:
    """Copy the state into the network; return missing and unexpected names."""
    ordered: OrderedDict[str, Any] = OrderedDict(state)
    ordered._metadata = versions  # type: ignore[attr-defined]
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
            yield f"the weights are an average of {int(checkpoint.state[name].sum())} steps"
    tools = sorted({_last_segment(name) for name in unused} & {"total_ops", "total_params"})
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
    misshapen: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
    names: Collection[str],
    expected: Collection[str],
) -> str:
    if missing and (prefixes := _fitting_prefixes(names, expected)):
        starts = " or ".join(repr(prefix) for prefix in prefixes)
        options = " or ".join(f"--weights-prefix {prefix}" for prefix in prefixes)
        return f"Names that start with {starts} fit; take them with {options}."
    if unexpected and not missing and not misshapen:
        patterns = sorted({f"{name.partition('.')[0]}.*" for name in unexpected})
        return (
            "Turn on the parts of the network that these weights belong to; where it answers "
            f"without them, add --weights-ignore {' --weights-ignore '.join(map(repr, patterns))}."
        )
    if missing or unexpected:
        return "Take the network that these weights were trained in."
    remedy = "Give the network the arguments it was trained with, such as num_classes"
    widths = {(actual[:1], built[:1]) for actual, built in misshapen.values()}
    same_otherwise = all(actual[1:] == built[1:] for actual, built in misshapen.values())
    # Weight and bias of a head, and of two auxiliary ones.
    if same_otherwise and len(widths) == 1 and len(misshapen) <= 6:
        ((actual, *_), (built, *_)) = next(iter(widths))
        return (
            f"The weights have {actual} outputs, the network was built with {built}. {remedy}: add "
            f"--network-kwargs '{{\"num_classes\": {actual}}}'."
        )
    return f"{remedy} or image_size."


def _fitting_prefixes(names: Collection[str], expected: Collection[str]) -> list[str]:
    """Return the prefixes whose names, without it, are all that the network expects."""
    needed = {_without_wrappers(name) for name in expected}
    prefixes = {name[: match.end()] for name in names for match in re.finditer(r"\.", name)}
    return sorted(
        prefix
        for prefix in prefixes
        if needed
        <= {_without_wrappers(name[len(prefix) :]) for name in names if name.startswith(prefix)}
    )
