"""The network and its weights, read, loaded strictly and captured in the draft."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from artifact.architectures import Architecture, build_network, source_folder, sources
from artifact.checkpoints import check_published_digest, read_state_dict
from artifact.checkpoints_graphs import load_torchscript
from artifact.checkpoints_kinds import is_onnx, is_torchscript
from artifact.checkpoints_loading import load_strictly
from artifact.checkpoints_torchvision import (
    TorchvisionWeights,
    read_torchvision_weights,
    torchvision_meta,
    torchvision_weights_of,
)
from artifact.manifest import WEIGHTS_NAME
from importer.errors import ImportRefused
from importer.onnx_network import OnnxNetwork
from importer.options import ImportOptions

ARCHITECTURE_FOLDER = "architecture"
ORIGINAL_FOLDER = "original"
"""Where a finished graph is kept as it was given, in place of architecture and weights."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """What was trained.

    Attributes:
        network: With its weights, in evaluation mode, on the CPU.
        architecture: How to build it; None where the file is a finished graph.
        published: What torchvision says of the weights, where it published them.
        notes: Sentences for the operator.
    """

    network: nn.Module
    architecture: Architecture | None
    published: TorchvisionWeights | None
    notes: tuple[str, ...] = ()


def read_model(options: ImportOptions, draft: Path) -> ModelSource:
    """Build the network from its captured source, load the weights, save them in the draft.

    Raises:
        OperatorError: What is wrong with either.
    """
    path = Path(options.weights)
    is_graph = path.is_file() and (is_torchscript(path) or is_onnx(path))
    if options.network is None:
        if not is_graph:
            raise ImportRefused(
                f"--network is not given and {path} is no TorchScript and no ONNX file; expected "
                "--network torchvision:NAME or PATH.py:FUNCTION"
            )
        return _read_graph(path, draft)
    if is_graph:
        raise ImportRefused(
            f"{path}: a finished graph, which holds its network; leave --network out"
        )
    return _read_network(options, options.network, draft)


def _read_network(options: ImportOptions, network_text: str, draft: Path) -> ModelSource:
    architecture = Architecture.parse(network_text, options.network_kwargs)
    published = _published(architecture, options.weights)
    if published is not None:
        kwargs = {**published.builder_kwargs, **architecture.kwargs}
        architecture = architecture.model_copy(update={"kwargs": kwargs})
    folder = draft / ARCHITECTURE_FOLDER
    for name, path in sources(architecture, source_folder(network_text)).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    network = build_network(architecture, folder)
    if published is not None and not Path(options.weights).is_file():
        checkpoint = read_torchvision_weights(published, progress=True)
    else:
        checkpoint = read_state_dict(
            Path(options.weights), key=options.weights_key, prefix=options.weights_prefix
        )
    load_strictly(network, checkpoint)
    _save_weights(network, draft)
    notes: tuple[str, ...] = ()
    if checkpoint.alternatives:
        notes = (
            f"weights are those at {checkpoint.found_at!r}; there are also "
            f"{', '.join(checkpoint.alternatives)} (--weights-key)",
        )
    return ModelSource(network=network, architecture=architecture, published=published, notes=notes)


def _published(architecture: Architecture, weights: str) -> TorchvisionWeights | None:
    if architecture.torchvision is None:
        return None
    if Path(weights).is_file():
        return torchvision_weights_of(architecture.torchvision, Path(weights))
    if weights.isidentifier():
        return torchvision_meta(architecture.torchvision, weights)
    return None


def _save_weights(network: nn.Module, draft: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    try:
        save_model(network, str(draft / WEIGHTS_NAME))
    except SafetensorError as error:  # a full disk is one too, not an OSError
        raise ImportRefused(f"{draft / WEIGHTS_NAME}: {error}; make room in the store") from error
    (draft / WEIGHTS_NAME).chmod(0o644)  # safetensors writes 0600; a container's user must read it


def _read_graph(path: Path, draft: Path) -> ModelSource:
    check_published_digest(path)
    folder = draft / ORIGINAL_FOLDER
    folder.mkdir()
    if is_torchscript(path):
        kept = folder / "network.torchscript.pt"
        shutil.copyfile(path, kept)
        script = load_torchscript(kept)
        for parameter in script.parameters():  # a ScriptModule has no requires_grad_
            parameter.requires_grad = False
        return ModelSource(network=script, architecture=None, published=None)
    network = OnnxNetwork(path)
    for name, file in network.signature.files.items():
        # The graph refers to files beside it by their names; its own is free to choose.
        shutil.copyfile(file, folder / ("network.onnx" if file == path else name))
    notes = []
    if network.cut_softmax:
        notes.append("the graph ends in Softmax; its input, the logits, is what is served")
    if network.batch_size is not None:
        notes.append(f"the graph has a fixed batch size of {network.batch_size}; it is made free")
    return ModelSource(network=network, architecture=None, published=None, notes=tuple(notes))
