"""A model, its engine and the right answers, as the file that every server under test reads."""

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
"""Environment variable that names the workload file to a server under test."""
Array = np.ndarray[Any, Any]


class Workload(BaseModel):
    """What every server under test serves.

    Attributes:
        model: Network and precision, e.g. "resnet50-int8".
        engine: Graph for OpenVINO: uint8 (n, H, W, C) in, logits (n, classes) out. For a GPU: the
            weights, as safetensors.
        network: For a GPU: a function of `torchvision.models`.
        precision_hint: OpenVINO's INFERENCE_PRECISION_HINT: "f32" or "bf16".
        preprocessing: Spec file, or FILE.py:CLASS, from the top folder.
        threads: Processor cores a server may use.
        store: BENTOML_HOME of the imported artifact.
        lock: Lock of the imported artifact.
        files: The images, in order.
        accepted: For each image, the classes that count as right, best first: what the engine
            itself says in-process.
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
        """Return what makes the uint8 input (H, W, C) of a file.

        It is this project's own preprocessing, so that all servers infer the same pixels.
        """
        file, _, name = self.preprocessing.partition(":")
        preprocessing = (
            load_preprocessing(ROOT / file, name)
            if name
            else SpecPreprocessing(PreprocessingSpec.model_validate_json(Path(file).read_bytes()))
        )
        return partial(to_input, preprocessing=preprocessing, limits=DecodeLimits())


def read_workload(path: Path) -> Workload:
    """Read from JSON; raise pydantic's ValidationError where another version wrote it."""
    return Workload.model_validate_json(path.read_bytes())


def workload_from_environment() -> Workload:
    """Return the workload this server was started for."""
    return read_workload(Path(os.environ[WORKLOAD_VARIABLE]))
