"""What an engine is, and how the one a manifest names is loaded."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from artifact.errors import ArtifactError
from artifact.manifest import EngineGraph, EngineKind
from artifact.record import Plan

Batch = npt.NDArray[np.generic]
Logits = npt.NDArray[np.float32]


class Engine(Protocol):
    """One way to run the network, compiled for fixed shapes.

    Thread-safe: several threads may call `run`; calls beyond the engine's streams wait.
    """

    def run(self, batch: Batch) -> Logits:
        """The forward pass.

        Args:
            batch: Inputs, shape (n, H, W, C), n one of the batch sizes it was loaded for.

        Returns:
            Logits, float32, shape (n, classes), owned by the caller.
        """


LoadEngine = Callable[[Plan], Engine]
"""Loads one engine for the batch sizes, streams and threads of a plan."""


class EngineUnavailable(ArtifactError):
    """An engine's library is not installed or does not run on this machine."""


def open_graph(graph: EngineGraph, root: Path, input_shape: tuple[int, ...]) -> LoadEngine:
    """Open the graph of an engine; what is returned loads it for one plan or several.

    Engines loaded from one opened graph share what can be shared of its weights.

    Args:
        graph: From the manifest, or in the making.
        root: Directory of the artifact.
        input_shape: (H, W, C) of one input.

    Raises:
        EngineUnavailable: The library it needs is missing.
    """
    path = root / graph.file
    # Each library is imported only where its engine is used: a CPU service needs no torch.
    try:
        match graph.kind:
            case "openvino":
                from inference.engine_openvino import OpenVinoEngine, the_core

                model = the_core().read_model(path)
                return functools.partial(OpenVinoEngine, model, graph.precision, input_shape)
            case "onnxruntime":
                from inference.engine_onnxruntime import OnnxRuntimeEngine

                return functools.partial(OnnxRuntimeEngine, path)
            case "torchscript":
                from inference.engine_torch import TorchScriptEngine

                return functools.partial(TorchScriptEngine, path, graph.precision)
    except ImportError as error:
        raise EngineUnavailable(
            f"engine {graph.name}: {error.name} is not installed; install the requirements of "
            "this engine, or set CLASSIFIER_ENGINE to another"
        ) from error


def accelerator_of(kind: EngineKind) -> str | None:
    """Name of the GPU that engines of this kind run on in this process; None on the CPU."""
    if kind != "torchscript":
        return None
    from inference.engine_torch import gpu_name

    return gpu_name()
