"""Where the weights lie in what training saved."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifact.errors import ArtifactError

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
