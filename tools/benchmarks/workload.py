"""A model, its engine and the right answers, as the file that every server under test reads."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

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


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What every server under test serves.

    Attributes:
        model: Network and precision, e.g. "resnet50-int8".
        engine: Graph for OpenVINO: uint8 (n, H, W, C) in, logits (n, classes) out.
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

    model: str
    engine: str
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

    def input_maker(self) -> "InputMaker":
        """Return the model's preprocessing, ready to use."""
        return InputMaker(self.preprocessing)


class InputMaker:
    """The model's preprocessing: this project's own, so that all servers infer the same pixels."""

    def __init__(self, preprocessing: str) -> None:
        file, _, name = preprocessing.partition(":")
        self._limits = DecodeLimits()
        self._preprocessing = (
            load_preprocessing(ROOT / file, name)
            if name
            else SpecPreprocessing(PreprocessingSpec.model_validate_json(Path(file).read_bytes()))
        )

    def __call__(self, data: bytes) -> Array:
        """Return the uint8 input (H, W, C) of a file."""
        return to_input(data, self._preprocessing, self._limits)


def write_workload(workload: Workload, path: Path) -> None:
    """Write as JSON."""
    path.write_text(json.dumps(asdict(workload), indent=1) + "\n")


def read_workload(path: Path) -> Workload:
    """Read from JSON; an unknown or missing key is a TypeError."""
    fields = json.loads(path.read_text())
    accepted = tuple(tuple(classes) for classes in fields.pop("accepted"))
    return Workload(**{**fields, "files": tuple(fields["files"]), "accepted": accepted})


def workload_from_environment() -> Workload:
    """Return the workload this server was started for."""
    return read_workload(Path(os.environ[WORKLOAD_VARIABLE]))
