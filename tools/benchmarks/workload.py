"""A model, its engine and the right answers, in a file for all servers under test."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from preprocessing import (
    DecodeLimits,
    PreprocessingSpec,
    SpecPreprocessing,
    load_preprocessing,
    to_input,
)
from tools.serving import ROOT

WORKLOAD_VARIABLE = "BENCHMARK_WORKLOAD"
"""Environment variable with the path of the workload file."""
Array = np.ndarray[Any, Any]


class Workload(BaseModel):
    """The model and images for all servers under test.

    Attributes:
        model: Network and precision, e.g. "resnet50-int8".
        engine: Graph for OpenVINO: uint8 (n, H, W, C) in, logits (n, classes) out. On a GPU: the
            weights as safetensors.
        network: On a GPU: a function of `torchvision.models`.
        precision_hint: OpenVINO's INFERENCE_PRECISION_HINT: "f32" or "bf16".
        preprocessing: Spec file, or FILE.py:CLASS, relative to the checkout.
        threads: Processor cores a server may use.
        store: BENTOML_HOME of the imported artifact.
        lock: Lock of the imported artifact.
        files: The images, in order.
        accepted: For each image, the right classes, best first: the engine's in-process answer.
        made_from: Digest of the sources that made it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    engine: str
    network: str = ""
    precision_hint: str
    preprocessing: str
    threads: int
    store: str
    lock: str
    files: tuple[str, ...]
    accepted: tuple[tuple[int, ...], ...] = ()
    made_from: str = ""

    def images(self) -> list[bytes]:
        """Return the bytes of each file."""
        return [Path(file).read_bytes() for file in self.files]

    def input_maker(self) -> Callable[[bytes], Array]:
        """Return a function from a file's bytes to its uint8 input (H, W, C).

        All servers use this project's preprocessing, and so the same pixels.
        """
        file, _, name = self.preprocessing.partition(":")
        preprocessing = (
            load_preprocessing(ROOT / file, name)
            if name
            else SpecPreprocessing(PreprocessingSpec.model_validate_json(Path(file).read_bytes()))
        )
        return partial(to_input, preprocessing=preprocessing, limits=DecodeLimits())


def read_workload(path: Path) -> Workload:
    """Read a workload; a pydantic ValidationError means another version wrote it."""
    return Workload.model_validate_json(path.read_bytes())


def workload_from_environment() -> Workload:
    """Return the workload of this server."""
    return read_workload(Path(os.environ[WORKLOAD_VARIABLE]))
