"""A model, its engine and the right answers, as the file that all servers under test read.

Standard library only: every peer imports this in an environment of its own.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

WORKLOAD_VARIABLE = "BENCHMARK_WORKLOAD"
"""Environment variable that names the workload file to a server under test."""

DIGITS = "digits"
"""Architecture of the example model: its own network and preprocessing."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What every server under test serves.

    Attributes:
        model: Name of the network and precision, e.g. "resnet50-int8".
        architecture: Function of `torchvision.models`, for the eager peer, or DIGITS.
        weights: safetensors file of the network, float32.
        engine: .xml or .onnx graph: uint8 (n, H, W, 3) in, logits (n, classes) out.
        made_from: Digest of the sources that made it; other sources make it again.
        store: BENTOML_HOME of the imported artifact.
        lock: Lock of the imported artifact; empty where the import was refused.
        precision_hint: OpenVINO's INFERENCE_PRECISION_HINT: "f32" or "bf16".
        resize_size: Pixels the shorter side is resized to, bilinear with antialias.
        crop_size: Side of the central square given to the model.
        mean, std: One a channel, of pixels scaled to [0, 1]; for the eager peer.
        classes: Number of logits.
        threads: Processor cores a server may use.
        mixes: Image mix name to its files, in order.
        accepted: Image mix name to the right classes of each file, best first: what the engine
            itself says in-process.
        accepted_float32: The same of the float32 engine, for a server that runs in float32.
    """

    model: str
    architecture: str
    weights: str
    engine: str
    made_from: str
    store: str
    lock: str
    precision_hint: str
    resize_size: int
    crop_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    threads: int
    mixes: dict[str, list[str]]
    accepted: dict[str, list[list[int]]]
    accepted_float32: dict[str, list[list[int]]]


def write_workload(workload: Workload, path: Path) -> None:
    """Write as JSON."""
    path.write_text(json.dumps(asdict(workload), indent=1) + "\n")


def read_workload(path: Path) -> Workload:
    """Read from JSON; an unknown or missing key is a TypeError."""
    return Workload(**json.loads(path.read_text()))
