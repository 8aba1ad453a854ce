"""What an engine is: one way to run a network."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.record import Plan

Batch = npt.NDArray[np.generic]
Logits = npt.NDArray[np.float32]


class Engine(Protocol):
    """One way to run the network, compiled for fixed shapes.

    Thread-safe: several threads may call `run`; calls beyond the engine's streams wait.
    """

    def run(self, batch: Batch) -> Logits:
        """Run the forward pass.

        Args:
            batch: Inputs, shape (n, H, W, C), n one of the batch sizes it was loaded for.

        Returns:
            Logits, float32, shape (n, classes), owned by the caller.
        """


LoadEngine = Callable[[Plan], Engine]
"""Loads one engine for the batch sizes, streams and threads of a plan."""


class EngineUnavailable(ArtifactError):
    """An engine's library is not installed or does not run on this machine."""


class EngineError(Exception):
    """The engine broke its contract: wrong number of rows, wrong width, or no answer."""
