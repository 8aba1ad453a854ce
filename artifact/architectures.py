"""The network a model is: a name torchvision knows, or a function in a captured source file."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from artifact.architectures_sources import captured_sources, load_captured
from artifact.errors import ArtifactError

if TYPE_CHECKING:
    import torch

TORCHVISION = "torchvision"
NOT_SETTABLE = frozenset({"weights", "weights_backbone", "progress", "pretrained"})
"""Builder arguments that decide about weights, which come from the checkpoint alone."""
NETWORKS_WITH_SLOW_INIT = frozenset({"googlenet", "inception_v3"})
"""Their builders warn unless `init_weights` is given, and take seconds to draw random weights."""


class Architecture(BaseModel):
    """How to build the network, without its weights.

    Attributes:
        torchvision: Name of a torchvision classification model; None for a source file.
        file: Name of the source file in its source folder; None for torchvision.
        builder: Function or class in `file` that returns the network.
        kwargs: Keyword arguments of the builder, e.g. `num_classes`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    torchvision: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    file: Annotated[str, Field(pattern=r"^\w[\w.-]*\.py$")] | None = None
    builder: Annotated[str, Field(pattern=r"^[^\W\d]\w*$")] | None = None
    kwargs: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _one_origin(self) -> "Architecture":
        if (self.torchvision is None) == (self.file is None):
            raise ValueError("exactly one of torchvision and file must be given")
        if (self.file is None) != (self.builder is None):
            raise ValueError("file and builder belong together")
        return self

    @classmethod
    def parse(cls, text: str, kwargs: Mapping[str, JsonValue]) -> "Architecture":
        """Read `torchvision:resnet50` or `path/network.py:build`.

        Only the name of the file is kept; `source_folder(text)` is where it lies.

        Raises:
            ArtifactError: Neither form, or a keyword that decides about weights.
        """
        if refused := sorted(NOT_SETTABLE & kwargs.keys()):
            raise ArtifactError(
                f"network {text}: argument {', '.join(refused)} cannot be set; "
                "weights come from the checkpoint alone"
            )
        origin, _, name = text.rpartition(":")
        if origin == TORCHVISION and name.isidentifier():
            return cls(torchvision=name, kwargs=dict(kwargs))
        if origin.endswith(".py") and name.isidentifier():
            return cls(file=Path(origin).name, builder=name, kwargs=dict(kwargs))
        raise ArtifactError(
            f"network {text!r}: expected torchvision:NAME or PATH.py:FUNCTION, "
            "e.g. torchvision:resnet50 or network.py:build"
        )

    def __str__(self) -> str:
        origin = (
            f"{TORCHVISION}:{self.torchvision}"
            if self.torchvision
            else f"{self.file}:{self.builder}"
        )
        given = ", ".join(f"{name}={value!r}" for name, value in self.kwargs.items())
        return f"{origin}({given})" if given else origin


def source_folder(text: str) -> Path | None:
    """The folder of the file that `Architecture.parse(text, …)` names; None for torchvision."""
    origin, _, _ = text.rpartition(":")
    return None if origin == TORCHVISION else Path(origin).parent


def sources(architecture: Architecture, source_dir: Path | None) -> dict[str, Path]:
    """The files that must travel with the weights: the network's own and what it imports beside it.

    Returns:
        Name below the source folder (forward slashes, sorted) → file. Empty for torchvision.

    Raises:
        ArtifactError: The file is missing, is no Python, or imports from outside its folder.
    """
    if architecture.file is None:
        return {}
    return captured_sources(_given(source_dir, architecture) / architecture.file)


def build_network(architecture: Architecture, source_dir: Path | None) -> "torch.nn.Module":
    """The network in evaluation mode, on the CPU, with random weights.

    Args:
        architecture: What to build.
        source_dir: Folder of the source file; not used for torchvision.

    Raises:
        ArtifactError: The name is unknown, or the builder fails.
    """
    if architecture.torchvision is not None:
        network = _torchvision_network(architecture)
    else:
        network = _captured_network(architecture, _given(source_dir, architecture))
    return network.eval().requires_grad_(False)


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


def _torchvision_network(architecture: Architecture) -> "torch.nn.Module":
    import torchvision.models

    name = str(architecture.torchvision)
    check_torchvision_name(name)
    kwargs: dict[str, Any] = dict(architecture.kwargs)
    if name in NETWORKS_WITH_SLOW_INIT:
        kwargs.setdefault("init_weights", False)
    return _built(architecture, lambda: torchvision.models.get_model(name, weights=None, **kwargs))


def _captured_network(architecture: Architecture, source_dir: Path) -> "torch.nn.Module":
    module = load_captured(source_dir / str(architecture.file))
    builder = getattr(module, str(architecture.builder), None)
    if not callable(builder):
        found = sorted(
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
        )
        raise ArtifactError(
            f"network {architecture}: the file defines no function {architecture.builder!r}; "
            f"it defines {', '.join(found) or 'none'}"
        )
    return _built(architecture, lambda: builder(**architecture.kwargs))


def _built(architecture: Architecture, build: Any) -> "torch.nn.Module":
    import torch

    try:
        network = build()
    # The builder is code of the user's or takes arguments of the user's: it can raise anything.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ArtifactError(
            f"network {architecture}: the builder raised {type(error).__name__}: {reason}; "
            "check the arguments and that the network builds in a plain Python session"
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise ArtifactError(
            f"network {architecture}: returned {type(network).__name__}, expected a torch.nn.Module"
        )
    return network


def _given(source_dir: Path | None, architecture: Architecture) -> Path:
    if source_dir is None:
        raise ArtifactError(f"network {architecture}: the folder of its source file is not given")
    return source_dir
