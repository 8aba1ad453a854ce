"""What torchvision knows: networks, published weights and what comes with them."""

import difflib
import enum
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlsplit

from pydantic import JsonValue

from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.manifest import TORCHVISION
from importer.weights import Checkpoint, read_state_dict

if TYPE_CHECKING:
    pass


def known_torchvision_names() -> tuple[str, ...]:
    """The names of all torchvision classification models, sorted."""
    import torchvision.models

    return tuple(sorted(torchvision.models.list_models(module=torchvision.models)))


def check_torchvision_name(name: str) -> None:
    """Raise where torchvision has no classification model called `name`.

    Raises:
        ArtifactError: With the names that come close.
    """
    known = known_torchvision_names()
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        hint = f"close are {', '.join(close)}" if close else f"there are {', '.join(known)}"
        raise ArtifactError(
            f"network {TORCHVISION}:{name}: not a classification model of torchvision; {hint}"
        )


NETWORKS_THAT_NORMALISE_AGAIN = frozenset({"googlenet", "inception_v3"})
"""Ported weights: torchvision builds them with `transform_input=True`."""


@dataclass(frozen=True, kw_only=True)
class TorchvisionWeights:
    """What torchvision publishes beside the numbers; plain data.

    Attributes:
        network: E.g. "resnet50".
        weights: Member of the network's weights enum, e.g. "IMAGENET1K_V2".
        url: Where the checkpoint is published.
        labels: Names of the classes, in the order of the logits.
        builder_kwargs: Arguments the network must be built with for these weights.
        resize_size: Pixels the shorter side is resized to.
        crop_size: Side of the central square, in pixels.
        interpolation: "bilinear" or "bicubic".
        antialias: Whether the resize filters before it shrinks.
        mean, std: RGB, of pixels scaled to [0, 1].
    """

    network: str
    weights: str
    url: str
    labels: tuple[str, ...]
    builder_kwargs: dict[str, JsonValue]
    resize_size: int
    crop_size: int
    interpolation: str
    antialias: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def file_name(self) -> str:
        """Name of the published file; ends in the start of its sha256."""
        return Path(urlsplit(self.url).path).name


def torchvision_meta(network: str, weights: str) -> TorchvisionWeights:
    """What torchvision says about published weights, without fetching them.

    Args:
        network: Name of a classification model.
        weights: Name of a member of its weights enum, or "DEFAULT".

    Raises:
        ArtifactError: No such network, or no such weights of it.
    """
    member = _member(network, weights)
    preset = member.transforms()
    if member.meta["categories"] is None:  # vgg16's IMAGENET1K_FEATURES: the classifier is NaN
        raise ArtifactError(
            f"weights {weights!r} of torchvision:{network} hold features without a classifier; "
            "take other weights"
        )
    labels = tuple(member.meta["categories"])
    return TorchvisionWeights(
        network=network,
        weights=member.name,
        url=member.url,
        labels=labels,
        builder_kwargs=_builder_kwargs(network, member, len(labels)),
        resize_size=preset.resize_size[0],
        crop_size=preset.crop_size[0],
        interpolation=preset.interpolation.value,
        antialias=bool(preset.antialias),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def torchvision_weights_of(network: str, path: Path) -> TorchvisionWeights | None:
    """The published weights of `network` whose file name `path` has; None where there are none.

    The digest in the name is checked when the file is read.
    """
    import torchvision.models

    check_torchvision_name(network)
    for member in torchvision.models.get_model_weights(network):
        if member.url.endswith(f"/{path.name}"):
            return torchvision_meta(network, member.name)
    return None


def read_torchvision_weights(meta: TorchvisionWeights, *, progress: bool = False) -> Checkpoint:
    """Read published weights from torch.hub's cache; fetch them first where they are not there.

    The start of the sha256 in the file's name is checked, of a cached file too.

    Args:
        meta: What `torchvision_meta` returned.
        progress: Whether to show a bar on standard error while fetching.

    Raises:
        ArtifactError: The file cannot be fetched, or is not the published one.
    """
    import torch.hub

    path = Path(torch.hub.get_dir()) / "checkpoints" / meta.file_name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        expected = path.stem.rpartition("-")[2]
        try:
            torch.hub.download_url_to_file(meta.url, str(path), expected, progress=progress)
        except (URLError, OSError, RuntimeError) as error:  # RuntimeError: the digest differs
            raise ArtifactError(
                f"{meta.url}: cannot be fetched ({error}); fetch it elsewhere and give the file "
                "as the weights"
            ) from error
    return read_state_dict(path)


def _member(network: str, weights: str) -> Any:
    import torchvision.models

    check_torchvision_name(network)
    known: enum.EnumMeta = torchvision.models.get_model_weights(network)
    if weights not in known.__members__:
        raise ArtifactError(
            f"weights {weights!r}: not published for torchvision:{network}; there are "
            f"{', '.join(known.__members__)}"
        )
    return known.__members__[weights]


def _builder_kwargs(network: str, member: Any, num_classes: int) -> dict[str, JsonValue]:
    """What torchvision's own builder derives from the weights (`_ovewrite_named_param`)."""
    kwargs: dict[str, JsonValue] = {}
    if num_classes != 1000:
        kwargs["num_classes"] = num_classes
    if network.startswith("vit_") and member.meta["min_size"][0] != 224:
        kwargs["image_size"] = member.meta["min_size"][0]
    if network in NETWORKS_THAT_NORMALISE_AGAIN:
        kwargs["transform_input"] = True
    return kwargs
