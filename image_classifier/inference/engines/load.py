"""How the engine that an artifact names is loaded."""

import functools
from pathlib import Path

from image_classifier.artifact.evidence import EngineGraph, EngineKind
from image_classifier.inference.engine import EngineUnavailable, LoadEngine


def open_graph(graph: EngineGraph, root: Path, input_shape: tuple[int, ...]) -> LoadEngine:
    """Open the graph of an engine; what is returned loads it for one plan or several.

    Engines loaded from one opened graph share what can be shared of its weights.

    Args:
        graph: From the evidence, or in the making.
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
                from image_classifier.inference.engines.openvino import OpenVinoEngine, the_core

                model = the_core().read_model(path)
                return functools.partial(OpenVinoEngine, model, graph.precision, input_shape)
            case "onnxruntime":
                from image_classifier.inference.engines.onnxruntime import OnnxRuntimeEngine

                return functools.partial(OnnxRuntimeEngine, path)
            case "torchscript":
                from image_classifier.inference.engines.torchscript import TorchScriptEngine

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
    from image_classifier.inference.engines.torchscript import gpu_name

    return gpu_name()
