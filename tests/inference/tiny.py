"""A network small enough for hand work, exported by the importer to each kind of graph."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from image_classifier.artifact.evidence import EngineGraph, EngineKind
from image_classifier.artifact.format import WEIGHTS_NAME
from image_classifier.artifact.manifest import InputSpec
from image_classifier.artifact.record import Plan
from image_classifier.inference.engine import Batch, Engine
from image_classifier.inference.engines.load import open_graph
from importer.export import export_onnx, export_program
from importer.network import save_weights
from importer.pixels_to_logits import PixelsToLogits

SHAPE = (6, 5, 3)
"""Height, width and channels all differ, so that no swap of axes goes unseen."""
INPUT_SPEC = InputSpec(shape=SHAPE, dtype="uint8", mean=(0.1, 0.4, 0.6), std=(0.5, 0.25, 0.2))
FILES: dict[EngineKind, str] = {
    "openvino": "network.onnx",
    "onnxruntime": "network.onnx",
    "torch": "network.pt2",
}


def tiny_network() -> PixelsToLogits:
    torch.manual_seed(7)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
    )
    return PixelsToLogits(network, INPUT_SPEC).eval().requires_grad_(False)


def tiny_inputs(count: int) -> Batch:
    return np.random.default_rng(3).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def export_tiny(folder: Path) -> None:
    """Write both graphs, and the weights."""
    network = tiny_network()
    export_onnx(network, tiny_inputs(2), folder / "network.onnx")
    export_program(network, tiny_inputs(2), folder / "network.pt2")
    save_weights(network.network, folder / WEIGHTS_NAME)


def tiny_engine(folder: Path, kind: EngineKind, *batch_sizes: int, streams: int = 1) -> Engine:
    plan = Plan(engine=kind, streams=streams, threads=2, batch_sizes=batch_sizes, service_time_ms=1)
    graph = EngineGraph(kind=kind, precision="fp32", file=FILES[kind])
    return open_graph(graph, folder, SHAPE)(plan)
