"""The interface of an engine, a library that runs the network."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.record import Plan

Batch = npt.NDArray[np.generic]
Logits = npt.NDArray[np.float32]


class Engine(Protocol):
    """A network compiled for fixed shapes.

    Thread-safe: several threads may call `run`; calls beyond the engine's streams wait.
    """

    def run(self, batch: Batch) -> Logits:
        """Run the forward pass.

        Args:
            batch: Inputs, shape (n, H, W, C); n is a batch size of the plan.

        Returns:
            Logits, float32, shape (n, classes), owned by the caller.
        """


LoadEngine = Callable[[Plan], Engine]
"""Loads an engine for the batch sizes, streams and threads of a plan."""


class EngineUnavailable(ArtifactError):
    """An engine's library is not installed or does not run on this machine."""


class EngineError(Exception):
    """The engine gave logits of the wrong shape, or none."""
