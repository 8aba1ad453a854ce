"""Loading of engines by their kind."""

import functools
from pathlib import Path

from image_classifier.artifact.evidence import EngineGraph, EngineKind
from image_classifier.artifact.format import WEIGHTS_NAME, Precision
from image_classifier.inference.engine import EngineUnavailable, LoadEngine


def open_graph(graph: EngineGraph, root: Path, input_shape: tuple[int, ...]) -> LoadEngine:
    """Open the graph of an engine; return a function that loads it for a plan.

    Engines loaded from one opened graph share weights if the library can.

    Args:
        graph: An engine of the evidence or of a running import.
        root: Directory of the artifact.
        input_shape: (H, W, C) of one input.

    Raises:
        EngineUnavailable: The engine's library is missing.
    """
    path = root / graph.file
    # Each library is imported only if its engine is used: a CPU service needs no torch.
    try:
        match graph.kind:
            case "openvino":
                from image_classifier.inference.engines.openvino import OpenVinoEngine, shared_core

                model = shared_core().read_model(path)
                return functools.partial(OpenVinoEngine, model, graph.precision, input_shape)
            case "onnxruntime":
                from image_classifier.inference.engines.onnxruntime import OnnxRuntimeEngine

                return functools.partial(OnnxRuntimeEngine, path)
            case "torch":
                from image_classifier.inference.engines.torch import Program

                return Program(path, root / WEIGHTS_NAME, graph.precision).load
            case "aotinductor":
                from image_classifier.inference.engines.aotinductor import CompiledProgram

                if graph.package is None:
                    raise EngineUnavailable(f"engine {graph.name}: the evidence has no package")
                return CompiledProgram(path, graph.precision, root, graph.package).load
    except ImportError as error:
        raise EngineUnavailable(
            f"engine {graph.name}: {error.name} is not installed; install the requirements of "
            "this engine, or set CLASSIFIER_ENGINE to another"
        ) from error


def effective_precision(graph: EngineGraph) -> Precision:
    """Return the precision that this machine computes a graph in.

    On a CPU without bf16, OpenVINO 2026.4.1 accepts the hint but computes in fp32.
    """
    if (graph.kind, graph.precision) != ("openvino", "bf16"):
        return graph.precision
    from image_classifier.inference.engines.openvino import shared_core

    capabilities = shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "fp32"


def accelerator_of(kind: EngineKind) -> str | None:
    """Return the name of the GPU that engines of this kind run on in this process, or None."""
    if kind == "openvino":
        return None
    if kind == "onnxruntime":
        from image_classifier.inference.engines.onnxruntime import gpu_name as name_for_onnx

        return name_for_onnx()
    from image_classifier.inference.engines.torch import gpu_name

    return gpu_name()
