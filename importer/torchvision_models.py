"""What torchvision knows: networks, published weights and what comes with them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import JsonValue
from torch.overrides import TorchFunctionMode

from image_classifier.artifact.manifest import TORCHVISION
from importer.errors import ImportRefused
from importer.options import nearest
from preprocessing import PreprocessingSpec

UNSEEN_ARGUMENTS = {"googlenet": "transform_input", "inception_v3": "transform_input"}
"""Network → the argument that changes its answers and leaves no trace in its weights. torchvision
sets it to true when it builds the network with published weights, and to false otherwise. A test
compares the networks that all builders make with and without weights, attribute by attribute."""
AUXILIARY_HEADS = {"googlenet": ".aux1.", "inception_v3": ".AuxLogits."}
"""Network → what names of an auxiliary head's weights contain; `aux_logits` turns the heads on."""


@dataclass(frozen=True, kw_only=True)
class TorchvisionWeights:
    """What torchvision publishes beside the numbers; plain data.

    Attributes:
        url: Where the checkpoint is published; the name ends in the start of its sha256.
        labels: Names of the classes, in the order of the logits.
        builder_kwargs: Arguments the network must be built with for these weights.
        preprocessing: The transform that the weights were evaluated with.
    """

    url: str
    labels: tuple[str, ...]
    builder_kwargs: dict[str, JsonValue]
    preprocessing: PreprocessingSpec


def torchvision_meta(network: str, weights: str) -> TorchvisionWeights:
    """Return what torchvision says about published weights, without fetching them.

    Args:
        weights: Name of a member of its weights enum, or "DEFAULT".

    Raises:
        ImportRefused: There is no such network, or no such weights, or they are no classifier's.
    """
    members = _weights_of(network).__members__
    if weights not in members:
        raise ImportRefused(
            f"torchvision publishes no weights {weights!r} of {network}; expected a file or one of "
            f"{', '.join(members)}{nearest(weights, members)}"
        )
    member = members[weights]
    if member.meta["categories"] is None:  # vgg16's IMAGENET1K_FEATURES: the classifier is NaN
        raise ImportRefused(
            f"weights {weights!r} of torchvision:{network} hold features without a classifier; "
            "take other weights"
        )
    # What torchvision's own builder derives from the weights (`_ovewrite_named_param`).
    arguments: dict[str, JsonValue] = {}
    if (num_classes := len(member.meta["categories"])) != 1000:
        arguments["num_classes"] = num_classes
    if network.startswith("vit_") and member.meta["min_size"][0] != 224:
        arguments["image_size"] = member.meta["min_size"][0]
    if network in UNSEEN_ARGUMENTS:
        arguments[UNSEEN_ARGUMENTS[network]] = True
    transform = member.transforms()
    resize = {"size": transform.resize_size[0], "interpolation": transform.interpolation.value}
    preprocessing = {"resize": resize, "crop": transform.crop_size[0]}
    return TorchvisionWeights(
        url=member.url,
        labels=tuple(member.meta["categories"]),
        builder_kwargs=arguments,
        preprocessing=PreprocessingSpec.model_validate(
            {**preprocessing, "mean": transform.mean, "std": transform.std}
        ),
    )


def _weights_of(network: str) -> Any:
    import torchvision.models

    known = torchvision.models.list_models(module=torchvision.models)
    if network not in known:
        raise ImportRefused(f"torchvision has no classifier {network!r}{nearest(network, known)}")
    return torchvision.models.get_model_weights(network)


def published_weights(network: str, weights: str) -> TorchvisionWeights | None:
    """Return the published weights that a name or a file name stands for; None where none does.

    The digest in a file's name is checked when the file is read.

    Args:
        weights: A file, or the name of a member of the network's weights enum.

    Raises:
        ImportRefused: There is no such network, or no such weights.
    """
    for member in _weights_of(network):
        if member.url.endswith(f"/{Path(weights).name}"):
            return torchvision_meta(network, member.name)
    if not Path(weights).is_file() and weights.isidentifier():
        return torchvision_meta(network, weights)
    return None


def published_file(meta: TorchvisionWeights) -> Path:
    """Return the published file in torch.hub's cache; fetch it first where it is not there.

    Raises:
        ImportRefused: The file cannot be fetched, or is not the published one.
    """
    import torch.hub

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(meta.url).path).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        expected = path.stem.rpartition("-")[2]
        try:
            torch.hub.download_url_to_file(meta.url, str(path), expected)
        except (OSError, RuntimeError) as error:  # RuntimeError: the digest differs
            raise ImportRefused(
                f"{meta.url}: cannot be fetched ({error}); fetch it elsewhere and give the file "
                "as the weights"
            ) from error
    return path


def builder_arguments(
    network: str,
    given: Mapping[str, JsonValue],
    weight_names: Collection[str],
    published: TorchvisionWeights | None,
) -> dict[str, JsonValue]:
    """Complete the arguments of a builder with what its weights tell.

    Args:
        given: Arguments the operator gave; they win.
        weight_names: Names of the weights; they tell whether there are auxiliary heads.
        published: Where the weights are published ones, what torchvision says of them.

    Raises:
        ImportRefused: The answers depend on an argument that is not given and that neither
            tells.
    """
    arguments = {**(published.builder_kwargs if published else {}), **given}
    unseen = UNSEEN_ARGUMENTS.get(network)
    if unseen is not None and unseen not in arguments:
        raise ImportRefused(
            f"network {TORCHVISION}:{network}: its answers depend on {unseen}, which the weights "
            f"do not tell; add --network-kwargs '{{\"{unseen}\": true}}' where training started "
            f"from torchvision's published weights, '{{\"{unseen}\": false}}' where it started "
            f"from random ones (in the notebook: print(model.{unseen}))"
        )
    if head := AUXILIARY_HEADS.get(network):
        arguments.setdefault("aux_logits", any(head in f".{name}" for name in weight_names))
    return arguments


class _NoInitialization(TorchFunctionMode):
    """Leaves parameters as they are allocated: drawing those of VGG-16 takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def build_torchvision(network: str, arguments: Mapping[str, JsonValue]) -> Any:
    """Return a network of torchvision whose parameters have no values yet.

    Raises what the builder raises.
    """
    import torchvision.models

    kwargs: dict[str, Any] = dict(arguments)
    if network in UNSEEN_ARGUMENTS:  # both warn where it is not given
        kwargs.setdefault("init_weights", False)
    with _NoInitialization():
        return torchvision.models.get_model(network, weights=None, **kwargs)
