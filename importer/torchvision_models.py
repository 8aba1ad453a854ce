"""torchvision's networks and published weights, with their preprocessing and labels."""

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

WITH_AUXILIARY_HEADS = {"googlenet": ".aux1.", "inception_v3": ".AuxLogits."}
"""Networks with auxiliary heads, which `aux_logits` enables → part of the names of their weights.

The answers of these, and of no other network, depend on an argument that the weights do not show:
torchvision sets `transform_input` to true for published weights, and to false otherwise. A test
compares the networks that all builders make with and without weights, attribute by attribute."""


@dataclass(frozen=True, kw_only=True)
class TorchvisionWeights:
    """torchvision's description of published weights.

    Attributes:
        url: Address of the checkpoint; the file name ends in the start of its sha256.
        labels: Class names, in the order of the logits.
        builder_kwargs: Arguments the network must be built with for these weights.
        preprocessing: The transform that the weights were evaluated with.
    """

    url: str
    labels: tuple[str, ...]
    builder_kwargs: dict[str, JsonValue]
    preprocessing: PreprocessingSpec


def torchvision_meta(network: str, weights: str) -> TorchvisionWeights:
    """Return the description of published weights, without fetching them.

    Args:
        weights: Name of a member of the network's weights enum, or "DEFAULT".

    Raises:
        ImportRefused: The network or the weights are unknown, or the weights have no classifier.
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
    # As torchvision's builders derive them from the weights (`_ovewrite_named_param`).
    arguments: dict[str, JsonValue] = {}
    if (num_classes := len(member.meta["categories"])) != 1000:
        arguments["num_classes"] = num_classes
    if network.startswith("vit_") and member.meta["min_size"][0] != 224:
        arguments["image_size"] = member.meta["min_size"][0]
    if network in WITH_AUXILIARY_HEADS:
        arguments["transform_input"] = True
    transform = member.transforms()
    resize = {"size": transform.resize_size[0], "interpolation": transform.interpolation.value}
    crop, mean, std = transform.crop_size[0], transform.mean, transform.std
    return TorchvisionWeights(
        url=member.url,
        labels=tuple(member.meta["categories"]),
        builder_kwargs=arguments,
        preprocessing=PreprocessingSpec.model_validate(
            {"resize": resize, "crop": crop, "mean": mean, "std": std}
        ),
    )


def _weights_of(network: str) -> Any:
    import torchvision.models

    known = torchvision.models.list_models(module=torchvision.models)
    if network not in known:
        raise ImportRefused(f"torchvision has no classifier {network!r}{nearest(network, known)}")
    return torchvision.models.get_model_weights(network)


def published_weights(network: str, weights: str) -> TorchvisionWeights | None:
    """Return the published weights with this name or file name; None for other files.

    The digest in a file name is verified when the file is read.

    Args:
        weights: A file, or the name of a member of the network's weights enum.

    Raises:
        ImportRefused: The network or the weights are unknown.
    """
    for member in _weights_of(network):
        if member.url.endswith(f"/{Path(weights).name}"):
            return torchvision_meta(network, member.name)
    if not Path(weights).is_file() and weights.isidentifier():
        return torchvision_meta(network, weights)
    return None


def published_file(meta: TorchvisionWeights) -> Path:
    """Return the published file in torch.hub's cache; fetch it if it is missing.

    Raises:
        ImportRefused: The file cannot be fetched, or has another digest.
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
    requested: Mapping[str, JsonValue],
    weight_names: Collection[str],
    published: TorchvisionWeights | None,
) -> dict[str, JsonValue]:
    """Complete the arguments of a builder with those that its weights imply.

    Args:
        requested: The operator's arguments; they take precedence.
        weight_names: Names of the weights, which show whether there are auxiliary heads.
        published: torchvision's description of the weights, if it published them.

    Raises:
        ImportRefused: The answers depend on an argument that is not requested and that the
            weights do not show.
    """
    arguments = {**(published.builder_kwargs if published else {}), **requested}
    if network in WITH_AUXILIARY_HEADS:
        if "transform_input" not in arguments:
            raise ImportRefused(
                f"network {TORCHVISION}:{network}: its answers depend on transform_input, which "
                "the weights do not show; add --network-kwargs '{\"transform_input\": true}', or "
                "false if training did not start from torchvision's published weights (in the "
                "notebook: print(model.transform_input))"
            )
        head = WITH_AUXILIARY_HEADS[network]
        arguments.setdefault("aux_logits", any(head in f".{name}" for name in weight_names))
    return arguments


class _NoInitialization(TorchFunctionMode):
    """Skips the initialisation of parameters, which takes seconds for VGG-16."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def build_torchvision(network: str, **kwargs: Any) -> Any:
    """Build a network with uninitialised parameters, and pass on what the builder raises."""
    import torchvision.models

    if network in WITH_AUXILIARY_HEADS:  # both warn without it
        kwargs.setdefault("init_weights", False)
    with _NoInitialization():
        return torchvision.models.get_model(network, weights=None, **kwargs)
