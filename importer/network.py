"""The trained network: its source, its weights and its logits."""

import functools
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from image_classifier.artifact.format import WEIGHTS_NAME
from image_classifier.artifact.manifest import TORCHVISION, Activation, Architecture
from importer.captured_source import capture_source
from importer.endings import network_ending
from importer.errors import ImportRefused
from importer.failures import call_user_code
from importer.graphs import OnnxNetwork, load_torchscript, refuse_other_precision
from importer.options import ModelOptions
from importer.torchvision_models import (
    TorchvisionWeights,
    build_torchvision,
    builder_arguments,
    published_file,
    published_weights,
)
from importer.weights import (
    check_published_digest,
    is_torchscript,
    load_strictly,
    read_state_dict,
)
from preprocessing.isolated_source import load_isolated

ARCHITECTURE_FOLDER = "architecture"
ORIGINAL_FOLDER = "original"
"""Holds a copy of a finished graph, in place of architecture and weights."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A trained model as it was read.

    Attributes:
        network: With its weights, in evaluation mode, on the CPU.
        architecture: How to build it; None for a finished graph.
        published: torchvision's description of the weights, if it published them.
        activation: The activation removed from the end of a finished graph.
        classes: Class names from the checkpoint, in order, if it has them.
        rebuild: Builds the network again and loads the same weights; None for networks that
            cannot differ then: torchvision's and finished graphs.
        ignored_weights: Names in the file that were not loaded.
        notes: Sentences for the operator.
    """

    network: nn.Module
    architecture: Architecture | None = None
    published: TorchvisionWeights | None = None
    activation: Activation | None = None
    classes: tuple[str, ...] = ()
    rebuild: Callable[[], nn.Module] | None = None
    ignored_weights: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_network(options: ModelOptions, staging_dir: Path) -> ModelSource:
    """Copy the network's source into the staging directory, build it there and load its weights.

    Args:
        options: With a network.
        staging_dir: Directory of the artifact; the loaded weights are written there, too.

    Raises:
        OperatorError: The source or the weights are unusable.
    """
    origin, _, name = str(options.network).rpartition(":")
    from_torchvision = origin == TORCHVISION
    published = published_weights(name, options.weights) if from_torchvision else None
    path = Path(options.weights)
    if published is not None and not path.is_file():
        path = published_file(published)
    read_checkpoint = functools.partial(
        read_state_dict,
        path,
        key=options.weights_key,
        prefix=options.weights_prefix or "",
        ignore=options.weights_ignore,
    )
    checkpoint = read_checkpoint()
    kwargs = options.network_kwargs
    if from_torchvision:
        kwargs = builder_arguments(name, kwargs, [*checkpoint.state], published)
        architecture = Architecture(torchvision=name, kwargs=kwargs)
    else:
        capture_source(Path(origin)).copy_to(staging_dir / ARCHITECTURE_FOLDER)
        architecture = Architecture(file=Path(origin).name, builder=name, kwargs=kwargs)
    build = functools.partial(build_network, architecture, staging_dir / ARCHITECTURE_FOLDER)
    network = build()
    ignored, notes = load_strictly(network, checkpoint)

    def rebuild() -> nn.Module:
        again = build()
        load_strictly(again, read_checkpoint())
        return again

    save_weights(network, staging_dir / WEIGHTS_NAME)
    return ModelSource(
        network=network,
        architecture=architecture,
        published=published,
        classes=checkpoint.classes,
        rebuild=None if from_torchvision else rebuild,
        ignored_weights=ignored,
        notes=notes,
    )


def read_graph(path: Path, staging_dir: Path) -> ModelSource:
    """Read a TorchScript or ONNX file, and copy it into the staging directory.

    Raises:
        ImportRefused: The file is neither, or damaged, or no image classifier.
    """
    check_published_digest(path)
    folder = staging_dir / ORIGINAL_FOLDER
    folder.mkdir()
    if is_torchscript(path):
        kept = folder / "network.torchscript.pt"
        shutil.copyfile(path, kept)
        return ModelSource(network=load_torchscript(kept))
    network = OnnxNetwork(path)
    for name, file in network.files.items():
        # The graph refers to its external data by name, so only its own name may change.
        copy = folder / ("network.onnx" if file == path else name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    notes = []
    if network.activation is not None:
        notes.append(f"the graph ends in {network.activation}; the logits before it are served")
    if not network.takes_batches:
        notes.append(
            "the graph has a fixed batch size of 1, so one image at a time is served; to serve "
            "batches, export it with a dynamic batch axis"
        )
    return ModelSource(network=network, activation=network.activation, notes=tuple(notes))


def build_network(architecture: Architecture, source_dir: Path) -> nn.Module:
    """Build the network on the CPU, without trained weights.

    It is not put into evaluation mode yet: a network may do more then, such as merge LoRA's
    weights, which must be loaded before.

    Args:
        source_dir: Folder of the captured source file; not used for torchvision.

    Raises:
        ImportRefused: The builder is unknown, fails, or returns no network with float32 parameters.
    """
    where = f"network {architecture}: "
    if architecture.torchvision is not None:
        builder = functools.partial(build_torchvision, architecture.torchvision)
    else:
        builder = _function_of_file(architecture, source_dir, where)
    network = call_user_code(
        lambda: builder(**architecture.kwargs),
        what=f"{where}the builder",
        folder=source_dir,
        remedy="check the arguments in --network-kwargs",
    )
    if not isinstance(network, nn.Module):
        raise ImportRefused(
            f"{where}the builder returned {type(network).__name__}, expected a torch.nn.Module; "
            "return the network itself, not its state dict"
        )
    refuse_other_precision(network, where)
    for parameter in network.parameters():
        if not torch.nn.parameter.is_lazy(parameter):  # lazy ones are shaped by their weights
            parameter.requires_grad_(False)
    return network


def _function_of_file(architecture: Architecture, source_dir: Path, where: str) -> Any:
    module = call_user_code(
        lambda: load_isolated(source_dir / str(architecture.file)),
        what=f"{where}the file",
        folder=source_dir,
        remedy="it may import only installed packages and files beside it: copy those there; to "
        "import its own folder by name, give a file in the folder above",
    )
    # A seed at the top of the file does not tell what the builder drew in the notebook.
    torch.seed()
    np.random.seed()
    random.seed()
    builder = getattr(module, str(architecture.builder), None)
    if not callable(builder):
        defined = sorted(
            name
            for name, item in vars(module).items()
            if callable(item) and getattr(item, "__module__", None) == module.__name__
        )
        raise ImportRefused(
            f"{where}the file defines no function {architecture.builder!r}; it defines "
            f"{', '.join(defined) or 'none'}"
        )
    return builder


def save_weights(network: nn.Module, path: Path) -> None:
    """Write the tensors of a network as safetensors."""
    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, item in network.state_dict().items():
        if isinstance(item, torch.Tensor):  # not a module's extra state; the graphs include it
            storage = item.untyped_storage().data_ptr()
            # safetensors refuses tensors that share memory, as tied weights do.
            tensors[name] = (item.clone() if storage in storages else item).contiguous()
            storages.add(storage)
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # a full disk is one too, not an OSError
        raise ImportRefused(f"{path}: {error}; make room in the store") from error
    path.chmod(0o644)  # safetensors writes 0600; a container's user must read it


def run_network(network: nn.Module, batch: torch.Tensor, source_dir: Path | None) -> torch.Tensor:
    """Run a network without gradients and check its output.

    Args:
        network: In evaluation mode.
        batch: Its input, (n, …).
        source_dir: Folder of the user's source files, to name the line that raises.

    Returns:
        float32 scores (n, classes).

    Raises:
        ImportRefused: The network raises, or returns anything else.
    """
    with torch.inference_mode():
        output = call_user_code(
            lambda: network(batch),
            what=f"network: its forward, on inputs of shape {tuple(batch.shape)},",
            folder=source_dir,
            remedy="check that the preprocessing belongs to this network, and that forward takes "
            "only one batch of float32 images (n, C, H, W) (no .half())",
        )
    if not isinstance(output, torch.Tensor):
        found = type(output).__name__
        if isinstance(output, Mapping):
            found += f" with {', '.join(map(repr, output))}"
        raise ImportRefused(
            f"network: forward returns {found}, expected one tensor (n, classes); give a builder "
            "whose network is a subclass that returns only the logits"
        )
    if not output.dtype.is_floating_point:
        raise ImportRefused(
            f"network: forward returns {output.dtype} of shape {tuple(output.shape)}, which are "
            "class numbers, expected scores; return the input of argmax"
        )
    if output.ndim != 2 or len(output) != len(batch) or not output.shape[1]:
        raise ImportRefused(
            f"network: forward returns shape {tuple(output.shape)} for {len(batch)} image(s), "
            "expected (n, classes), a row of scores per image: .flatten(1) makes it of (n, "
            "classes, 1, 1), where .squeeze() would also remove the batch dimension of one image"
        )
    return output.float()


def activation_of(
    source: ModelSource, pixels: torch.Tensor, requested: Activation | None
) -> Activation:
    """Return the activation that turns a network's outputs into probabilities.

    This reads the network's last operations. A final softmax or sigmoid of a torch network shows
    in the outputs, and is left to `check_activation`.

    Args:
        pixels: One input of the network, (1, C, H, W).
        requested: The operator's --activation.

    Raises:
        ImportRefused: The network contradicts the request, or ends in a logsigmoid or a sort, or
            its outputs are bounded or positive and nothing is requested.
    """
    if isinstance(source.network, OnnxNetwork):
        ending = source.network.ending
    else:
        ending = network_ending(source.network, pixels)
        ending.refuse("network")
    if requested is None and ending.doubtful:
        raise ImportRefused(
            f"network: ends in {ending.doubtful}, so its outputs are no logits; return its input "
            "and add --activation softmax or sigmoid, or serve the outputs as they are with "
            "--activation none; if they are trained as logits, add --activation softmax"
        )
    if source.activation is not None and requested not in (None, source.activation):
        raise ImportRefused(
            f"--activation {requested}: the network ends in {source.activation}; leave the option "
            "out"
        )
    return source.activation or requested or "softmax"


def takes_batches(source: ModelSource, network: nn.Module, batch: torch.Tensor) -> bool:
    """Return whether a network accepts batches; a finished graph may have a fixed size of one.

    Args:
        network: The network as it takes `batch`.
        batch: Two inputs, (2, H, W, C).
    """
    if source.architecture is not None:
        return True
    try:
        with torch.inference_mode():
            return len(network(batch)) == len(batch)
    except RuntimeError:  # torch's error for shapes that do not fit
        return False
