"""Checkpoints: read without running anything in them, and loaded strictly into a network."""

import argparse
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from image_classifier.artifact.format import sha256_file
from importer.errors import ImportRefused
from importer.failures import one_line
from importer.labels import composed

WEIGHT_KEYS = (
    *("state_dict_ema", "ema_state_dict", "model_ema", "model_ema_state_dict"),
    *("ema_model", "ema", "averaged_model", "swa_state_dict", "swa_model", "swa"),
    *("best_state_dict", "best_model_state_dict"),
    *("state_dict", "model_state_dict", "model", "network", "net", "weights", "params"),
)
"""Keys of training checkpoints that hold weights, preferred ones first: averages (EMA, SWA), whose
accuracy training reports, then those of the best epoch."""
AVERAGED = re.compile(r"(?<![a-z])(averaged?|ema|shadow|swa)(?![a-z])")
"""Words in the keys of averaged weights."""
CLASS_KEYS = ("classes", "class_names", "labels", "class_to_idx", "idx_to_class", "id2label")
"""Keys of training checkpoints that hold the names of the classes."""
SETTINGS = frozenset(
    {
        *("temperature", "temp", "class_prior", "mean", "std"),
        *("threshold", "thresholds", "best_threshold"),
        *("img_size", "image_size", "input_size", "crop_size", "crop_pct"),
    }
)
"""Keys of training checkpoints that say how images become inputs, or outputs become answers."""
TRAINING_STATE = ("optim", "lr_sched", "sched", "scaler", "amp", "loops", "callbacks")
"""Prefixes of keys whose tensors are no weights."""
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Segments that torch.compile, DataParallel, FSDP and activation checkpointing put into names."""
UNUSED = ("total_ops", "total_params", "n_averaged", "_extra_state")
"""Last segments of names that the network may lack: counters of thop and of torch's averaging, and
the result of `Module.get_extra_state`, which may be any plain value."""
MAX_DEPTH = 4
"""Levels of a checkpoint that are searched for weights."""
MAX_DIFF_LINES = 8
"""Names shown for each kind of difference; the counts are complete."""
DIGEST_IN_NAME = re.compile(r"-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$")
"""torch.hub's convention: the file name ends in the start of the sha256. Eight digits without a
letter are more likely a date."""
Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
"""Name → shape in the file and shape in the network."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The weights of one network, as read.

    Attributes:
        path: The file.
        state: Name → tensor on the CPU, in the order and dtype of the file; for names that end
            in `_extra_state`, any plain value.
        metadata: Module → format version and more, which torch saves beside the tensors.
        classes: Class names in training order, if the file has them.
        ignored: Names left out because of `ignore`.
        notes: Sentences for the operator.
    """

    path: Path
    state: Mapping[str, Any]
    metadata: Mapping[str, Any]
    classes: tuple[str, ...]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


def read_state_dict(
    path: Path, *, key: str | None = None, prefix: str = "", ignore: Sequence[str] = ()
) -> Checkpoint:
    """Read the weights of one network from a checkpoint.

    Accepts `.safetensors`, every format of `torch.save` (a bare state dict or a training
    checkpoint) and the `*.index.json` of shards. The content, not the name, decides the format.
    Files are read with `weights_only=True`: those that need pickle are refused. Tensors of zip
    and safetensors files are memory-mapped, so the file must not change while they are in use.

    Args:
        path: The file. If its name ends in the start of a sha256, as in
            `resnet50-11ad3fa6.pth`, the digest is verified first.
        key: Where the weights are, levels separated by "/"; None means the first of
            `WEIGHT_KEYS` in the file.
        prefix: Read only names with this prefix, e.g. "ema_model.", and remove it.
        ignore: Shell patterns of names to leave out, e.g. "aux_head.*".

    Raises:
        ImportRefused: The file is damaged, of another kind, needs pickle, or holds no weights.
    """
    check_published_digest(path)
    content = _content(path)
    mappings = dict(_mappings(content))
    candidates = {place: entries for place, entries in mappings.items() if _is_weights(entries)}
    outermost = [entries for place, entries in mappings.items() if "/" not in place]
    if not candidates:
        names = f" with {one_line([*content][:8])}" if isinstance(content, Mapping) else ""
        raise ImportRefused(
            f"{path}: holds no weights but a {type(content).__name__}{names}; expected a state "
            "dict: names → tensors"
        )
    if key is None:
        key = _preferred_key(candidates, path)
    other_keys = ", ".join(candidate for candidate in candidates if candidate != key)
    if key not in candidates:
        found = f"weights are at: {other_keys}" if other_keys else "leave --weights-key out"
        raise ImportRefused(f"{path}: no weights at key {key!r}; {found}")
    entries = candidates[key]
    for name in entries:
        if not (isinstance(name, str) and name.isprintable()):
            others = f", or choose with --weights-key: {other_keys}" if other_keys else ""
            raise ImportRefused(
                f"{path}: {key or 'the file'} holds {name!r}, expected names; save a state dict "
                "(copy an average in a list, as torch_ema keeps it, into the network "
                f"first){others}"
            )
    state = {name[len(prefix) :]: item for name, item in entries.items() if name.startswith(prefix)}
    if not state:
        raise ImportRefused(
            f"{path}: no name starts with {prefix!r}; the first is {next(iter(entries))!r}"
        )
    ignored = [name for name in state if any(fnmatchcase(name, pattern) for pattern in ignore)]
    for name in ignored:
        del state[name]
    if quantised := [name for name in state if "_packed_params" in name]:
        raise ImportRefused(
            f"{path}: {quantised[0]!r} holds quantised weights; give the checkpoint of the float "
            "network, which is quantised here (--precision int8)"
        )
    for name, item in state.items():
        if not isinstance(item, torch.Tensor) and _last_segment(name) != "_extra_state":
            raise ImportRefused(
                f"{path}: holds tensors and also {name!r} ({type(item).__name__}); leave it out "
                f"with --weights-ignore {name!r}"
            )
    notes = []
    if other_keys:
        notes.append(
            f"the weights at {key!r} are used; there are also {other_keys} (--weights-key)"
        )
    settings = [
        f"{name} {one_line(item.tolist() if isinstance(item, torch.Tensor) else item)}"
        for holder in outermost
        if not _is_weights(holder)
        for name, item in holder.items()
        if str(name).lower() in SETTINGS
        and isinstance(item, (str, int, float, list, tuple, torch.Tensor))
    ]
    if settings:
        notes.append(
            f"{path.name} also has {', '.join(settings)}; not used: only what the network, the "
            "preprocessing and the options say counts"
        )
    left_out = {name.partition(".")[0] for name in entries if not name.startswith(prefix)}
    if left_out:
        starts = one_line(", ".join(sorted(left_out)))
        notes.append(f"names that start with {starts} are left out (--weights-prefix)")
    return Checkpoint(
        path=path,
        state=state,
        metadata={
            module[len(prefix) :]: entry
            for module, entry in getattr(entries, "_metadata", {}).items()
            if f"{module}.".startswith(prefix)
        },
        classes=_classes_in(outermost),
        ignored=tuple(ignored),
        notes=tuple(notes),
    )


def load_strictly(
    network: torch.nn.Module, checkpoint: Checkpoint
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Load the weights into the network; every name and every shape must match.

    Names may differ by `WRAPPERS` and by a prefix that all of them share. Of tied tensors one is
    enough. Names ending in one of `UNUSED` may be superfluous. Modules migrate older formats.

    Values are copied into the network's tensors and take their dtype: half precision and bfloat16
    widen to float32 exactly, float64 is rounded. Memory holds the weights twice until the caller
    drops the checkpoint. After an error the network is partly loaded and must not be used.

    Returns:
        Names in the file that the network does not have, and sentences for the operator.

    Raises:
        ImportRefused: Names or shapes differ (the message lists them as a diff), a tensor is not
            dense or not of the network's kind of dtype, or a value is not finite.
    """
    path, expected = checkpoint.path, network.state_dict()
    names, cut, added = _match_names(checkpoint.state, expected)
    unused = [
        name for name, own in names.items() if own not in expected and _last_segment(name) in UNUSED
    ]
    state = {own: checkpoint.state[name] for name, own in names.items() if name not in unused}
    # Lazy layers have no shape yet; they take that of their weights.
    shaped = {
        name: item
        for name, item in expected.items()
        if isinstance(item, torch.Tensor) and not torch.nn.parameter.is_lazy(item)
    }
    misshapen = {}
    for name, item in state.items():
        if isinstance(item, torch.Tensor):
            _check_kind(f"{path}: {name}", item, shaped.get(name))
            if name in shaped and item.shape != shaped[name].shape:
                misshapen[name] = (tuple(item.shape), tuple(shaped[name].shape))
    tied = _tied_names(path, state, shaped)

    loadable: OrderedDict[str, Any] = OrderedDict(
        (name, item) for name, item in state.items() if name not in misshapen
    )
    # safetensors and EMA copies carry no versions. Modules then run the migrations of their oldest
    # format, except torchvision's MNASNet, a root module, which refuses to load without a version.
    versions = {"": getattr(expected, "_metadata", {}).get("", {})}
    try:
        for name, own in names.items():
            for file_module, module in _modules_above(name, own):
                entry = checkpoint.metadata.get(file_module)
                if entry:  # only the version: torch reads options there, too
                    versions[module] = {"version": entry.get("version")}
        loadable._metadata = versions  # type: ignore[attr-defined]
        # As a notebook does: loralib merges its weights when the evaluation mode begins.
        with suppress(Exception):  # a network for inference may refuse to train
            network.train()
        result = network.load_state_dict(loadable, strict=False)
        network.eval()
    except Exception as error:  # shapes after a migration, malformed metadata, the user's own code
        raise ImportRefused(f"{path}: does not fit the network: {one_line(error)}") from error
    missing = [name for name in result.missing_keys if name not in {*tied, *misshapen}]
    superfluous = {*result.unexpected_keys}
    unexpected = [name for name, own in names.items() if own in superfluous]
    if missing or unexpected or misshapen:
        remedy = _remedy(missing, unexpected, misshapen, checkpoint.state, expected)
        diff = _diff(path, missing, unexpected, misshapen, remedy)
        raise ImportRefused("\n".join([diff, *checkpoint.notes]))
    _check_finite(network, path)

    notes = [*checkpoint.notes]
    if cut:
        notes.append(f"the prefix {cut!r} was removed from all names of the weights")
    if added:
        notes.append(f"the prefix {added!r} was added to all names of the weights")
    if unused:
        kinds = ", ".join(sorted(set(map(_last_segment, unused))))
        notes.append(f"{len(unused)} entries that do not affect answers were ignored ({kinds})")
    return (*checkpoint.ignored, *unused), tuple(notes)


# Reading files


def check_published_digest(path: Path) -> None:
    """Refuse a file whose name ends in the start of another sha256 than its own."""
    match = DIGEST_IN_NAME.search(path.name)
    if match and not (actual := sha256_file(path)).startswith(match[1]):
        raise ImportRefused(
            f"{path}: the name says that the sha256 starts with {match[1]}, it is {actual[:16]}…; "
            "the file is damaged or not the published one: fetch it again, or rename it if the "
            "ending is no digest"
        )


def is_torchscript(path: Path) -> bool:
    """Return whether `path` is an archive of `torch.jit.save`: a zip with code and constants."""
    parts = [member.filename.split("/") for member in _zip_members(path)]
    inside = {names[1] for names in parts if len(names) > 1}
    return len({names[0] for names in parts}) == 1 and {"constants.pkl", "code"} <= inside


def _content(path: Path) -> Any:
    """Return the saved object: usually tensors by name."""
    if path.name.endswith(".index.json"):
        return _shards(path)
    # Hugging Face's naming of shards.
    if shard := re.fullmatch(r"(.+)-\d{5}-of-(?!00001)\d{5}\.(safetensors|bin)", path.name):
        return _shards(path.with_name(f"{shard[1]}.{shard[2]}.index.json"))
    return _single_file(path)


def _shards(index: Path) -> dict[str, Any]:
    """Return the tensors of all shards listed in an index; the shards must be beside it."""
    try:
        shards = json.loads(index.read_bytes())["weight_map"]
        files = sorted({index.parent / str(name) for name in shards.values()})
    except FileNotFoundError as error:
        raise ImportRefused(
            f"{index}: not there; the weights are one shard of several: copy the index and all "
            "shards into one folder"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ImportRefused(f"{index}: not an index of shards, a JSON with weight_map") from error
    tensors: dict[str, Any] = {}
    for file in files:
        if file.parent != index.parent or not file.is_file():
            raise ImportRefused(f"{index}: its shard {file.name!r} is not beside it; copy all")
        tensors |= _single_file(file)
    return tensors


def _single_file(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(9)
    # safetensors: the header's length (8 bytes, little-endian), then the header, a JSON object.
    length = int.from_bytes(start[:8], "little")
    # torch.load, too, takes a file of this name for safetensors.
    if path.suffix == ".safetensors" or (start[8:] == b"{" and 0 < length <= 100_000_000):
        return _safetensors(path)
    if path.suffix == ".onnx" or is_torchscript(path):
        raise ImportRefused(
            f"{path}: a finished graph, which includes its network; leave --network out"
        )
    if path.suffix in (".pt2", ".npz"):
        raise ImportRefused(
            f"{path}: a program of torch.export or arrays of numpy; save the weights of the "
            "network with torch.save(network.state_dict())"
        )
    is_zip = start.startswith(b"PK\x03\x04")
    # torch.save stores without compression, and only uncompressed tensors can be mapped.
    if is_zip and any(member.compress_type for member in _zip_members(path)):
        raise ImportRefused(
            f"{path}: a compressed zip archive, which torch.save does not write; unpack it and "
            "import the checkpoint inside"
        )
    try:
        # mmap needs the zip format: of a training checkpoint, three times the size of the weights
        # with its optimizer state, only the weights are read.
        with torch.serialization.safe_globals(PLAIN_DATA):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    # Hostile or truncated bytes reach the unpickler's stack machine: EOFError, RuntimeError,
    # KeyError, AttributeError, struct.error, UnicodeDecodeError and more were seen.
    except Exception as error:
        message = str(error)
        if isinstance(error, pickle.UnpicklingError) and (found := PYTHON_NAME.search(message)):
            raise _needs_pickle(path, found[1]) from error
        # torch's own advice before it is to allow pickle.
        reason = message.partition("WeightsUnpickler error:")[2] or message
        raise ImportRefused(
            f"{path}: not a complete checkpoint ({type(error).__name__}: {one_line(reason)}); "
            "nothing was run. Expected a file of torch.save or safetensors: copy or fetch it again"
        ) from error


def _zip_members(path: Path) -> list[zipfile.ZipInfo]:
    """Return the members of a zip archive; none if `path` is another file or is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    # A damaged directory raises BadZipFile, but also UnicodeDecodeError, struct.error and more.
    except Exception:
        return []


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        tensors = dict(safetensors.torch.load_file(path, device="cpu"))
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
        raise ImportRefused(
            f"{path}: not a complete safetensors file ({one_line(error)}); copy or fetch it "
            "again, or, if torch.save wrote it, rename it to .pt"
        ) from error
    # safetensors.torch.save_model stores a tied tensor once: omitted name → stored name.
    for name, stored in metadata.items():
        if stored in tensors:
            tensors.setdefault(name, tensors[stored])
    return tensors


class PlainValue:
    """Empty stand-in for a value beside the weights, such as a date or a path."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def plain_dict(*_: object) -> OrderedDict[str, Any]:
    """Stand in for `collections.defaultdict`: pickle fills in the items, the factory is dropped."""
    return OrderedDict()


def plain_list(*_: object) -> list[Any]:
    """Stand in for `collections.deque`: pickle fills in the items."""
    return []


PATHS = ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
PLAIN_VALUES = {
    "builtins": (
        *("bool", "dict", "float", "frozenset", "int", "list", "range", "slice", "str", "tuple"),
    ),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "pathlib": PATHS,
    "pathlib._local": PATHS,
    "torch.torch_version": ("TorchVersion",),
    "types": ("SimpleNamespace",),
    "uuid": ("UUID",),
}
"""Module → classes and functions that make plain values."""
PLAIN_DATA: list[Any] = [
    argparse.Namespace,
    (plain_dict, "collections.defaultdict"),
    (plain_list, "collections.deque"),
    *((PlainValue, f"{module}.{name}") for module, names in PLAIN_VALUES.items() for name in names),
]
"""Types that training scripts save beside the weights. The real ones are never called: stand-ins
replace them. `argparse.Namespace` only sets attributes."""


PYTHON_NAME = re.compile(r"(?:GLOBAL |(?:class|callable|function) (?=\S+\.))([\w.]+)")
"""In torch's refusals of pickles, what would be called."""


def _needs_pickle(path: Path, name: str) -> ImportRefused:
    return ImportRefused(
        f"{path}: needs pickle (it refers to {name}), which can run any program; nothing was "
        "run. If you have the training code, run there "
        "safetensors.torch.save_model(model, 'weights.safetensors') and import that file. If you "
        "have only this file and trust its author, run where it was made: import torch; "
        f"c = torch.load({path.name!r}, map_location='cpu', weights_only=False); "
        "plain = lambda v: {k: plain(w) for k, w in v.items()} if isinstance(v, dict) else "
        "plain(v.state_dict()) if hasattr(v, 'state_dict') else "
        "v if isinstance(v, (str, int, float, list, tuple, torch.Tensor)) else None; "
        "torch.save(plain(c), 'weights.pt')"
    )


# Finding the weights in a checkpoint


def _mappings(content: object, *place: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield the mappings of a checkpoint with their keys, joined by "/".

    The options of argparse are one, too, and so are averaged weights in a list.
    Mappings within weights and within the state of training are left out.
    """
    if isinstance(content, argparse.Namespace):
        content = vars(content)
    elif isinstance(content, (list, tuple)) and AVERAGED.search("/".join(place)):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping):
        return
    yield "/".join(place), content
    if len(place) < MAX_DEPTH and not _is_weights(content):
        for name, item in content.items():
            if isinstance(name, str) and not name.startswith(TRAINING_STATE):
                yield from _mappings(item, *place, name)


def _is_weights(entries: Mapping[Any, Any]) -> bool:
    # A training checkpoint may hold a tensor beside the weights: a loss, a seed.
    nested = any(
        isinstance(item, Mapping) and _last_segment(str(name)) != "_extra_state"
        for name, item in entries.items()
    )
    return not nested and any(isinstance(item, torch.Tensor) for item in entries.values())


def _classes_in(mappings: Iterable[Mapping[Any, Any]]) -> tuple[str, ...]:
    """Return the class names beside the weights, in order; empty if there are none."""
    for holder, key in product(mappings, CLASS_KEYS):
        found = holder.get(key)
        if isinstance(found, Mapping):
            by_index = {str(index): name for index, name in found.items()}
            if all(type(index) is int for index in found.values()):
                by_index = {str(index): name for name, index in found.items()}
            found = [by_index.get(str(index)) for index in range(len(found))]
        if isinstance(found, (list, tuple)) and all(isinstance(name, str) for name in found):
            return tuple(map(composed, found))
    return ()


def _preferred_key(candidates: Mapping[str, Mapping[Any, Any]], path: Path) -> str:
    if "steps" in candidates.get("ema_state_dict", ()) and "state_dict" in candidates:
        return "state_dict"  # the average: mmengine swaps them when it saves
    known = [place for key in WEIGHT_KEYS for place in candidates if place.partition("/")[0] == key]
    if len(candidates) > 1 and not known:
        raise ImportRefused(
            f"{path}: weights at several keys ({', '.join(candidates)}); choose the evaluated one "
            "with --weights-key; of parts of one network, save torch.save(network.state_dict())"
        )
    preferred = next(iter(known or candidates))
    # Not averages of a few losses. An average in a list has no names, and is then refused.
    least = len(candidates[preferred]) / 3
    averages = (
        place
        for place in (*known, *candidates)
        if AVERAGED.search(place) and len(candidates[place]) >= least
    )
    return next(averages, preferred)


# Matching names


def _match_names(
    names: Collection[str], expected: Collection[str]
) -> tuple[dict[str, str], str, str]:
    """Map the file's names to the network's, with the prefixes that match most of them.

    Returns:
        Name in the file → name in the network, or the closest guess; the prefix removed from the
        file's names; the prefix added to them.
    """
    if set(expected) <= set(names):  # the network itself may have modules named like wrappers
        return {name: name for name in names}, "", ""
    by_plain_name = {_plain(name): name for name in reversed([*expected])}

    def matched(cut: str, added: str) -> dict[str, str]:
        found: dict[str, str] = {}
        used = set()
        for name in names:
            plain = added + _plain(name).removeprefix(cut)
            own = by_plain_name.get(plain, plain)
            found[name] = name if own in used else own  # a second match is superfluous
            used.add(own)
        return found

    own = [_plain(name) for name in names if _last_segment(name) not in UNUSED]
    readings = product(_shared_prefixes(own), _shared_prefixes(by_plain_name))
    cut, added = max(
        readings, key=lambda pair: sum(name in expected for name in matched(*pair).values())
    )
    return matched(cut, added), cut, added


def _shared_prefixes(names: Collection[str]) -> list[str]:
    """Return the prefixes of whole segments that all names share, shortest first."""
    prefixes = _prefixes(next(iter(names), ""))
    return [prefix for prefix in prefixes if all(name.startswith(prefix) for name in names)]


def _prefixes(name: str) -> list[str]:
    """Return "" and each prefix of whole segments, shortest first."""
    return [name[: match.end()] for match in re.finditer(r"^|\.", name)]


def _plain(name: str) -> str:
    """Return a name without wrappers, and in torchvision's spelling.

    Its published DenseNets say `norm.1` where its networks say `norm1`.
    """
    name = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$", r"\1\2", name)
    return ".".join(segment for segment in name.split(".") if segment not in WRAPPERS)


def _modules_above(file_name: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield the enclosing modules of a tensor, as named in the file and in the network."""
    in_file, in_network = file_name.split("."), name.split(".")
    while in_file and in_network and in_file.pop() == in_network.pop():
        yield ".".join(in_file), ".".join(in_network)


def _last_segment(name: str) -> str:
    return name.rpartition(".")[2]


# Checking tensors


def _check_kind(where: str, item: torch.Tensor, expected: torch.Tensor | None) -> None:
    if item.layout != torch.strided or item.is_quantized or item.device.type != "cpu":
        raise ImportRefused(
            f"{where}: is quantized, sparse or without data; expected a dense tensor of numbers"
        )
    if expected is not None and (item.is_floating_point(), item.is_complex()) != (
        expected.is_floating_point(),
        expected.is_complex(),
    ):
        raise ImportRefused(f"{where}: dtype is {item.dtype}, the network has {expected.dtype}")


def _tied_names(
    path: Path, state: Mapping[str, Any], shaped: Mapping[str, torch.Tensor]
) -> set[str]:
    """Return the names whose tensor is that of a name in the file; refuse contradicting values."""

    def memory(item: torch.Tensor) -> tuple[object, ...]:
        return item.device, item.data_ptr(), item.shape, item.stride()

    loaded: dict[object, str] = {}
    for name, item in state.items():
        first = loaded.setdefault(memory(shaped[name]), name) if name in shaped else name
        if not (first == name or torch.equal(state[first], item)):
            raise ImportRefused(
                f"{path}: {first} and {name} differ, and the network has one tensor for both; take "
                "the network that these weights were trained in"
            )
    return {name for name, item in shaped.items() if memory(item) in loaded}


def _check_finite(network: torch.nn.Module, path: Path) -> None:
    # Not other buffers: attention masks hold minus infinity on purpose.
    statistics = ("running_mean", "running_var")
    buffers = [pair for pair in network.named_buffers() if pair[0].endswith(statistics)]
    for name, tensor in (*network.named_parameters(), *buffers):
        if bad := int((~torch.isfinite(tensor)).sum()):
            raise ImportRefused(
                f"{path}: {name}: {bad} of {tensor.numel()} values are NaN or infinite "
                f"in {tensor.dtype}; the training diverged or the file is damaged: take an earlier "
                "checkpoint"
            )


# Reporting differences


def _diff(
    path: Path, missing: Sequence[str], unexpected: Sequence[str], misshapen: Shapes, remedy: str
) -> str:
    shapes = [
        f"{name}: shape is {actual}, expected {built}"
        for name, (actual, built) in misshapen.items()
    ]
    lines = [
        f"{path}: does not fit the network: {len(missing)} missing, "
        f"{len(unexpected)} unexpected, {len(shapes)} of another shape "
        "(- the network needs, + the checkpoint has, ! differs)"
    ]
    for sign, names in (("-", missing), ("+", unexpected), ("!", shapes)):
        lines += [f"  {sign} {name}" for name in names[:MAX_DIFF_LINES]]
        if len(names) > MAX_DIFF_LINES:
            lines.append(f"  {sign} … and {len(names) - MAX_DIFF_LINES} more")
    return "\n".join([*lines, remedy])


def _remedy(
    missing: Sequence[str],
    unexpected: Sequence[str],
    misshapen: Shapes,
    names: Collection[str],
    expected: Collection[str],
) -> str:
    prefixes = _fitting_prefixes(names, expected)
    options = " or ".join(f"--weights-prefix {prefix!r}" for prefix in prefixes if prefix)
    if missing and options:
        return f"Names with a prefix fit: add {options}; other names are then left out"
    if unexpected and not missing and not misshapen:
        kept = {part for name in {*names} - {*unexpected} for part in name.split(".")}
        patterns = sorted({_pattern(name, kept) for name in unexpected})
        ignore = f"--weights-ignore {' --weights-ignore '.join(map(repr, patterns))}"
        if options and "" in prefixes:
            return (
                f"Names with a prefix fit, too, such as averaged weights: add {options} for these, "
                f"or {ignore} for those without"
            )
        return (
            "Turn on the parts of the network that these weights belong to; if its answers do not "
            f"need them, add {ignore}."
        )
    if missing and all(_last_segment(name) == "_extra_state" for name in missing):
        return (
            "The values of get_extra_state are in files of torch.save alone, not in safetensors "
            "or in an artifact: give the checkpoint of the training."
        )
    if missing or unexpected:
        remedy = (
            "Take the network that these weights were trained in (with a head of its own, it is "
            "built in a file: --network PATH.py:FUNCTION)."
        )
        if not unexpected and not misshapen:
            remedy += (
                " An average (EMA) of its parameters alone lacks the buffers: copy it into the "
                "network and save the state dict."
            )
        return remedy
    remedy = "Give the network the arguments it was trained with, such as num_classes"
    widths = {(actual[:1], built[:1]) for actual, built in misshapen.values()}
    if len(widths) == 1 and all(actual[1:] == built[1:] for actual, built in misshapen.values()):
        ((actual, *_), (built, *_)) = widths.pop()
        return (
            f"The weights have {actual} outputs, the network was built with {built}. {remedy}: add "
            f"--network-kwargs '{{\"num_classes\": {actual}}}'."
        )
    return f"{remedy} or image_size."


def _pattern(name: str, kept: Collection[str]) -> str:
    """Return a shell pattern for a name, made of its first segment that no kept name has."""
    segments = name.split(".")
    for place, segment in enumerate(segments, start=1):
        if segment not in kept:
            return f"{'*.' * (place > 1)}{segment}{'.*' * (place < len(segments))}"
    return name


def _fitting_prefixes(names: Collection[str], expected: Collection[str]) -> list[str]:
    """Return the prefixes whose names, without the prefix, include all that are expected."""
    needed = {_plain(name) for name in expected}
    return sorted(
        prefix
        for prefix in {start for name in names for start in _prefixes(name)}
        if needed <= {_plain(name[len(prefix) :]) for name in names if name.startswith(prefix)}
    )
