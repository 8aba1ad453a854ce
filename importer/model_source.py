"""The network and its weights, read, loaded strictly and captured in the draft."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from artifact.architectures import Architecture, build_network, source_folder, sources
from artifact.checkpoints import read_state_dict
from artifact.checkpoints_loading import load_strictly
from artifact.checkpoints_torchvision import (
    TorchvisionWeights,
    read_torchvision_weights,
    torchvision_meta,
    torchvision_weights_of,
)
from artifact.manifest import WEIGHTS_NAME
from importer.errors import ImportRefused
from importer.options import ImportOptions

ARCHITECTURE_FOLDER = "architecture"


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """What was trained.

    Attributes:
        network: With its weights, in evaluation mode, on the CPU.
        published: What torchvision says of the weights, where it published them.
    """

    network: nn.Module
    architecture: Architecture
    published: TorchvisionWeights | None


def read_model(options: ImportOptions, draft: Path) -> ModelSource:
    """Build the network from its captured source, load the weights, save them in the draft.

    Raises:
        OperatorError: What is wrong with either.
    """
    if options.network is None:
        raise ImportRefused("--network is not given; expected torchvision:NAME or PATH.py:FUNCTION")
    architecture = Architecture.parse(options.network, options.network_kwargs)
    published = _published(architecture, options.weights)
    if published is not None:
        kwargs = {**published.builder_kwargs, **architecture.kwargs}
        architecture = architecture.model_copy(update={"kwargs": kwargs})
    folder = draft / ARCHITECTURE_FOLDER
    for name, path in sources(architecture, source_folder(options.network)).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    network = build_network(architecture, folder)
    if published is not None and not Path(options.weights).is_file():
        checkpoint = read_torchvision_weights(published, progress=True)
    else:
        checkpoint = read_state_dict(Path(options.weights), key=options.weights_key)
    load_strictly(network, checkpoint)
    _save_weights(network, draft)
    return ModelSource(network=network, architecture=architecture, published=published)


def _published(architecture: Architecture, weights: str) -> TorchvisionWeights | None:
    if architecture.torchvision is None:
        return None
    if Path(weights).is_file():
        return torchvision_weights_of(architecture.torchvision, Path(weights))
    if weights.isidentifier():
        return torchvision_meta(architecture.torchvision, weights)
    return None


def _save_weights(network: nn.Module, draft: Path) -> None:
    from safetensors.torch import save_model

    save_model(network, str(draft / WEIGHTS_NAME))
    (draft / WEIGHTS_NAME).chmod(0o644)  # safetensors writes 0600; a container's user must read it
