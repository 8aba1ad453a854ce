"""Weights into a network, or a list of what does not fit."""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from artifact.checkpoints_contents import WRAPPERS, Checkpoint
from artifact.errors import ArtifactError

if TYPE_CHECKING:
    import torch

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
