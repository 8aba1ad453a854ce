"""The trained network: built from its source, loaded with its weights, asked for its logits."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from image_classifier.artifact.format import WEIGHTS_NAME
from image_classifier.artifact.manifest import TORCHVISION, Architecture
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
"""Where a finished graph is kept as it was given, in place of architecture and weights."""
NOT_SETTABLE = frozenset({"weights", "weights_backbone", "progress", "pretrained"})
"""Builder arguments that decide about weights, which come from the checkpoint alone."""
Activation = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """What was trained.

    Attributes:
        network: With its weights, in evaluation mode, on the CPU.
        architecture: How to build it; None where the file is a finished graph.
        published: What torchvision says of the weights, where it published them.
        activation: What was cut off at the end of a finished graph, to be applied to its outputs.
        classes: Names of the classes that stand beside the weights, in order; else nothing.
        ignored_weights: Names in the file that the network did not get.
        notes: Sentences for the operator.
    """

    network: nn.Module
    architecture: Architecture | None = None
    published: TorchvisionWeights | None = None
    activation: Activation | None = None
    classes: tuple[str, ...] = ()
    ignored_weights: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_network(options: ModelOptions, staging_dir: Path) -> ModelSource:
    """Build a network from its captured source and load its weights strictly.

    The sources and the weights are written into the staging directory, and built from there.

    Args:
        options: With a network.
        staging_dir: Directory of the artifact in the making.

    Raises:
        OperatorError: What is wrong with either, and what to do.
    """
    text = str(options.network)
    architecture = parse_architecture(text, options.network_kwargs)
    name = architecture.torchvision
    published = None if name is None else published_weights(name, options.weights)
    path = Path(options.weights)
    if published is not None and not path.is_file():
        path = published_file(published)
    checkpoint = read_state_dict(
        path,
        key=options.weights_key,
        prefix=options.weights_prefix or "",
        ignore=options.weights_ignore,
    )
    if name is not None:
        kwargs = builder_arguments(name, architecture.kwargs, [*checkpoint.state], published)
        architecture = architecture.model_copy(update={"kwargs": kwargs})
    else:
        source = capture_source(Path(text.rpartition(":")[0]))
        source.copy_to(staging_dir / ARCHITECTURE_FOLDER)
    build = functools.partial(build_network, architecture, staging_dir / ARCHITECTURE_FOLDER)
    network = build()
    if name is None:
        _refuse_drawn(network, build)
    ignored, notes = load_strictly(network, checkpoint)
    save_weights(network, staging_dir / WEIGHTS_NAME)
    return ModelSource(
        network=network,
        architecture=architecture,
        published=published,
        classes=checkpoint.classes,
        ignored_weights=ignored,
        notes=notes,
    )


def parse_architecture(text: str, kwargs: dict[str, JsonValue]) -> Architecture:
    """Read `torchvision:resnet50` or `path/network.py:build`.

    Only the name of the file is kept.

    Raises:
        ImportRefused: A keyword decides about weights.
    """
    if refused := sorted(NOT_SETTABLE & kwargs.keys()):
        raise ImportRefused(
            f"network {text}: argument {', '.join(refused)} cannot be set; "
            "weights come from the checkpoint alone"
        )
    origin, _, name = text.rpartition(":")
    if origin == TORCHVISION:
        return Architecture(torchvision=name, kwargs=kwargs)
    return Architecture(file=Path(origin).name, builder=name, kwargs=kwargs)


def read_graph(path: Path, staging_dir: Path) -> ModelSource:
    """Read a finished graph, a TorchScript or ONNX file, and keep it in the staging directory.

    Raises:
        ImportRefused: It is neither, or damaged, or no image classifier.
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
        # The graph refers to files beside it by their names; its own is free to choose.
        copy = folder / ("network.onnx" if file == path else name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    notes = []
    if network.activation is not None:
        notes.append(f"the graph ends in {network.activation}; its input, the logits, is served")
    if network.input_shape[0] is not None:
        notes.append(
            "the graph has a fixed batch size of 1, so one image at a time is served; to serve "
            "batches, export it with a dynamic batch axis"
        )
    return ModelSource(network=network, activation=network.activation, notes=tuple(notes))


def build_network(architecture: Architecture, source_dir: Path) -> nn.Module:
    """Build the network in evaluation mode, on the CPU, with weights of no meaning.

    Args:
        source_dir: Folder of the captured source file; not used for torchvision.

    Raises:
        ImportRefused: The name is unknown, the builder fails, or what it returns is no network
            of float32 parameters.
    """
    where = f"network {architecture}: "
    remedy = "check the arguments in --network-kwargs"
    if architecture.torchvision is not None:
        builder = functools.partial(
            build_torchvision, architecture.torchvision, architecture.kwargs
        )
    else:
        function = _function_of_file(architecture, source_dir, where)
        builder = functools.partial(function, **architecture.kwargs)
        remedy += (
            ", and that it opens files only as Path(__file__).parent / 'NAME', with the name as "
            "one string"
        )
    network = call_user_code(builder, what=f"{where}the builder", folder=source_dir, remedy=remedy)
    if not isinstance(network, nn.Module):
        hint = ", not its state dict" if isinstance(network, Mapping) else ""
        raise ImportRefused(
            f"{where}the builder returned {type(network).__name__}, expected a torch.nn.Module; "
            f"return the network itself{hint}"
        )
    scripted = [
        name for name, part in network.named_modules() if isinstance(part, torch.jit.ScriptModule)
    ]
    if scripted:
        raise ImportRefused(
            f"{where}its part {scripted[0]!r} is compiled by torch.jit.script, which no exporter "
            "takes; leave torch.jit.script out"
        )
    refuse_other_precision(network, where)
    for parameter in network.parameters():
        if not torch.nn.parameter.is_lazy(parameter):  # a lazy one gets its shape by the weights
            parameter.requires_grad_(False)
    network.eval()  # what it returns is the user's own where `train` is
    return network


def _refuse_drawn(network: nn.Module, again: Callable[[], nn.Module]) -> None:
    """Raise where tensors that no file of weights holds are others in a second build.

    Raises:
        ImportRefused: With the name of one.
    """
    first = _unsaved(network)
    second = _unsaved(again()) if first else {}
    for name, tensor in first.items():
        if name not in second or not torch.equal(tensor, second[name]):
            raise ImportRefused(
                f"network: {name} is not in the weights, and another one each time the network is "
                "built, as random numbers are: register it as a persistent buffer and save the "
                "weights again, or fix its seed where it is made"
            )


def _unsaved(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers and attributes of a network that its state dict does not have."""
    saved = network.state_dict().keys()
    found = {name: item for name, item in network.named_buffers() if name not in saved}
    for prefix, part in network.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, (torch.Tensor, np.ndarray)):
                with contextlib.suppress(TypeError):  # an array of objects
                    found[f"{prefix}.{name}".strip(".")] = torch.as_tensor(value)
    return found


def _function_of_file(architecture: Architecture, source_dir: Path, where: str) -> Any:
    module = call_user_code(
        lambda: load_isolated(source_dir / str(architecture.file)),
        what=f"{where}the file",
        folder=source_dir,
        remedy="it must run with installed packages and the files beside it alone: copy there what "
        "it imports",
    )
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
    """Write the tensors of a network as safetensors.

    Raises:
        ImportRefused: The file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, item in network.state_dict().items():
        if isinstance(item, torch.Tensor):  # not extra state of a module; the graphs hold it
            storage = item.untyped_storage().data_ptr()
            # safetensors takes no tensors that share memory, as tied weights do.
            tensors[name] = (item.clone() if storage in storages else item).contiguous()
            storages.add(storage)
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # a full disk is one too, not an OSError
        raise ImportRefused(f"{path}: {error}; make room in the store") from error
    path.chmod(0o644)  # safetensors writes 0600; a container's user must read it


def run_network(network: nn.Module, batch: torch.Tensor, source_dir: Path | None) -> torch.Tensor:
    """Run a network without gradients and check what it returns.

    Args:
        network: In evaluation mode.
        batch: Its input, (n, …).
        source_dir: Folder of the user's source files; a line of theirs that raises is named. None:
            there is none.

    Returns:
        float32 scores (n, classes).

    Raises:
        ImportRefused: It raises, or returns anything else; one line with what to change.
    """
    with torch.inference_mode():
        output = call_user_code(
            lambda: network(batch),
            what=f"network: its forward, on inputs of shape {tuple(batch.shape)},",
            folder=source_dir,
            remedy="check that the preprocessing is the one of this network, and that forward "
            "takes one batch of float32 images (n, C, H, W) alone (no .half())",
        )
    if not isinstance(output, torch.Tensor):
        raise ImportRefused(
            f"network: forward returns {_described(output)}, expected one tensor (n, classes); "
            "give a builder whose network is a subclass that returns the logits alone"
        )
    if output.dtype == torch.bool or not output.dtype.is_floating_point:
        raise ImportRefused(
            f"network: forward returns {output.dtype} of shape {tuple(output.shape)}, which are "
            "class numbers, expected scores; return what argmax is taken of"
        )
    if output.ndim != 2 or len(output) != len(batch) or not output.shape[1]:
        raise ImportRefused(
            f"network: forward returns shape {tuple(output.shape)} for {len(batch)} image(s), "
            f"expected (n, classes); {_shape_remedy(output)}"
        )
    return output.float()


def _described(output: object) -> str:
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with {', '.join(repr(key) for key in output)}"
    if isinstance(output, (tuple, list)):
        kinds = ", ".join(
            f"tensor {tuple(item.shape)}" if isinstance(item, torch.Tensor) else type(item).__name__
            for item in output
        )
        return f"{type(output).__name__} of {kinds}"
    return type(output).__name__


def _shape_remedy(output: torch.Tensor) -> str:
    if output.ndim > 2 and output.shape[2:].numel() == 1:
        return "add .flatten(1)"
    if output.ndim < 2:
        return "keep the batch dimension: squeeze the last dimensions only, or not at all"
    return "return one row of scores an image"


def activation_of(
    source: ModelSource, pixels: torch.Tensor, asked: Activation | None
) -> Activation:
    """Return what the service must apply to the outputs of a network to get probabilities.

    A softmax or sigmoid in a network of torch shows in the outputs (`check_activation`); one that
    is scaled, a logsigmoid and a sorting do not.

    Args:
        pixels: An input of its network, (1, C, H, W).
        asked: What the operator says of the outputs; None: nothing.

    Raises:
        ImportRefused: The network contradicts what was asked, or ends in a logsigmoid or a sorting,
            or in what has bounds while nothing was asked.
    """
    if isinstance(source.network, OnnxNetwork):
        ending = source.network.ending
    else:
        ending = network_ending(source.network, pixels)
        ending.refuse("network")
    if (squashing := ending.squashing) and asked is None:
        fitting = "softmax" if "softmax" in squashing else "sigmoid"
        raise ImportRefused(
            f"network: ends in {squashing}, so its outputs are no logits; return what that is "
            f"computed from and add --activation {fitting}, or serve the outputs as they are with "
            "--activation none; if they are trained as logits, add --activation softmax"
        )
    if ending.positive and asked is None:
        raise ImportRefused(
            f"network: ends in {ending.positive}, so its outputs are positive, and a softmax of "
            "them is hardly meant; return what that is computed from, or serve the outputs as they "
            "are with --activation none; if they are trained as logits, add --activation softmax"
        )
    if source.activation is not None and asked not in (None, source.activation):
        raise ImportRefused(
            f"--activation {asked}: the network ends in {source.activation}, so it is "
            f"{source.activation}; leave the option out"
        )
    return source.activation or asked or "softmax"


def takes_batches(source: ModelSource, network: nn.Module, batch: torch.Tensor) -> bool:
    """Return whether a network can be served in batches; a finished graph may be fixed to one.

    That it answers images together as it answers each alone is checked elsewhere.

    Args:
        network: The same network as it takes `batch`.
        batch: Two inputs, (2, H, W, C).
    """
    if source.architecture is not None:
        return True
    try:
        with torch.inference_mode():
            return len(network(batch)) == len(batch)
    except RuntimeError:  # torch's one error for shapes that do not fit
        return False
