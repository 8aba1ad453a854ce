"""A tiny network, exported by the importer to each kind of graph.

Only the functions that export import torch, so that test programs can run an engine without it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from image_classifier.artifact.evidence import EngineGraph, EngineKind
from image_classifier.artifact.format import WEIGHTS_NAME, Precision
from image_classifier.artifact.record import Plan
from image_classifier.inference.engine import Batch, Engine
from image_classifier.inference.engines.load import open_graph
from preprocessing import InputSpec

if TYPE_CHECKING:
    from importer.pixels_to_logits import PixelsToLogits

SHAPE = (6, 5, 3)
"""Height, width and channels differ, so that swapped axes show."""
INPUT_SPEC = InputSpec(shape=SHAPE, dtype="uint8", mean=(0.1, 0.4, 0.6), std=(0.5, 0.25, 0.2))
PROGRAM = "network.pt2"
FILES: dict[EngineKind, str] = {
    "openvino": "network.onnx",
    "onnxruntime": "network.onnx",
    "torch": PROGRAM,
}


def tiny_network() -> "PixelsToLogits":
    import torch
    from torch import nn

    from importer.pixels_to_logits import PixelsToLogits

    torch.manual_seed(7)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
    )
    return PixelsToLogits(network, INPUT_SPEC).eval().requires_grad_(False)


def tiny_inputs(count: int) -> Batch:
    return np.random.default_rng(3).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def store_program(network: "PixelsToLogits", folder: Path) -> None:
    """Write the program of a network and its weights."""
    from importer.export import export_program
    from importer.network import save_weights

    export_program(network, tiny_inputs(2), folder / PROGRAM)
    save_weights(network.network, folder / WEIGHTS_NAME)


def tiny_engine(
    folder: Path,
    kind: EngineKind,
    *batch_sizes: int,
    streams: int = 1,
    precision: Precision = "fp32",
) -> Engine:
    plan = Plan(engine=kind, streams=streams, threads=2, batch_sizes=batch_sizes, service_time_ms=1)
    graph = EngineGraph(kind=kind, precision=precision, file=FILES[kind])
    return open_graph(graph, folder, SHAPE)(plan)
