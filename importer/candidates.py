"""The engines that an import can try, and the choice among them."""

from collections.abc import Iterable

from image_classifier.artifact.evidence import EngineGraph
from image_classifier.artifact.manifest import Graph
from importer.options import ENGINES_OF_DEVICE, PRECISIONS, EngineOptions

ONNX_GRAPH = Graph(file="engines/network.onnx", format="onnx", precision="fp32")
INT8_GRAPH = Graph(
    file="engines/network-int8.xml",
    format="openvino",
    precision="int8",
    companions=("engines/network-int8.bin",),
)
TORCH_GRAPH = Graph(file="engines/network.pt2", format="torch", precision="fp32")
GRAPHS = {
    (kind, precision): TORCH_GRAPH
    for kind in ("torch", "aotinductor")
    for precision in PRECISIONS[kind]
}
GRAPHS[("openvino", "int8")] = INT8_GRAPH
CANDIDATES = tuple(
    EngineGraph(kind=kind, precision=precision, file=GRAPHS.get((kind, precision), ONNX_GRAPH).file)
    for kind, precisions in PRECISIONS.items()
    for precision in precisions
)
MIN_SAMPLES = 100
"""Golden images from which "auto" tries reduced precision: fewer cannot show 99 % agreement."""


def choose_candidates(options: EngineOptions, samples: int) -> tuple[tuple[EngineGraph, ...], str]:
    """Choose the engines to try, by the device, engine and precision of the options.

    Args:
        samples: Number of golden images; with few, "auto" tries no reduced precision.

    Returns:
        The candidates, and a note on precisions that are left out, or nothing.
    """
    engine, precision = options.engine, options.precision
    kinds = ENGINES_OF_DEVICE[options.device] if engine == "auto" else (engine,)
    chosen = [candidate for candidate in CANDIDATES if candidate.kind in kinds]
    note = ""
    if precision != "auto":
        chosen = [candidate for candidate in chosen if candidate.precision == precision]
    elif samples < MIN_SAMPLES:
        left_out = sorted({candidate.precision for candidate in chosen} - {"fp32"})
        chosen = [candidate for candidate in chosen if candidate.precision == "fp32"]
        if left_out:
            note = (
                f"{' and '.join(left_out)} are tried from {MIN_SAMPLES} golden images on; there "
                f"are {samples} (--golden; --precision tries one nevertheless)"
            )
    return tuple(chosen), note


def graphs_of(candidates: Iterable[EngineGraph]) -> tuple[Graph, ...]:
    """Return the graphs of the candidates, in the order of export."""
    files = {candidate.file for candidate in candidates}
    return tuple(graph for graph in (ONNX_GRAPH, INT8_GRAPH, TORCH_GRAPH) if graph.file in files)
