"""What the person importing a model asked for."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from image_classifier.artifact.format import FrozenModel
from image_classifier.artifact.manifest import ModelName
from image_classifier.inference.certificate import Gates


class ImportOptions(FrozenModel):
    """One import, checked.

    Attributes:
        network: `torchvision:NAME` or `PATH.py:BUILDER`; None where `weights` is a whole graph.
        network_kwargs: Arguments of the builder.
        weights: A file, or the name of a torchvision weights enum (`IMAGENET1K_V2`).
        weights_key: Where in a training checkpoint the weights are; None looks for it.
        weights_prefix: Start of the names that are the network's, cut off them; None takes all.
        preprocessing: A spec file, `PATH.py:CLASS`, or `torchvision:NAME[/WEIGHTS]`; None takes
            the one the torchvision weights bring.
        labels: File with the labels; None takes those the torchvision weights bring.
        golden: Folder of golden images.
        golden_labels: CSV with their classes.
        golden_count: How many of them become golden samples.
        reference: Logits or probabilities the researcher's notebook computed.
        calibration: Folder of calibration images for int8; None takes the golden images.
        calibration_count: How many of them.
        device: Where it will serve; decides which engines "auto" tries.
        engine: One kind of engine, or "auto" for all that apply.
        precision: One precision, or "auto" for all that apply.
        budget_ms: Latency an answer may take.
        measure_seconds: Duration of one point of a latency curve.
    """

    name: ModelName
    network: str | None = None
    network_kwargs: dict[str, JsonValue] = {}
    weights: str
    weights_key: str | None = None
    weights_prefix: str | None = None
    preprocessing: str | None = None
    labels: Path | None = None
    golden: Path
    golden_labels: Path | None = None
    golden_count: Annotated[int, Field(ge=2, le=4096)] = 100
    reference: Path | None = None
    calibration: Path | None = None
    calibration_count: Annotated[int, Field(ge=1, le=4096)] = 64
    device: Literal["cpu", "cuda"] = "cpu"
    engine: Literal["auto", "openvino", "onnxruntime", "torchscript"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    gates: Gates = Gates()
    budget_ms: Annotated[float, Field(gt=0)] = 50.0
    measure_seconds: Annotated[float, Field(gt=0, le=60)] = 0.4
