"""int8 by post-training quantisation of the ONNX graph (NNCF)."""

import logging
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from importer.errors import ImportRefused

if TYPE_CHECKING:
    import openvino as ov


def quantise(onnx: Path, calibration: npt.NDArray[np.generic], path: Path) -> None:
    """Write an int8 OpenVINO graph, in a process of its own.

    OpenVINO and NNCF number what they name by counters of the process: only from a fresh
    one does the same network give the same bytes, and so the same tag.

    Args:
        calibration: Inputs whose activations decide the ranges, (m, H, W, C).
        path: The .xml to write; the weights go beside it as .bin.

    Raises:
        ImportRefused: The quantisation failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "calibration.npy"
        np.save(inputs, calibration, allow_pickle=False)
        done = subprocess.run(  # noqa: S603  (this program, no word of a client's)
            [sys.executable, "-m", "importer.quantise", str(onnx), str(inputs), str(path)],
            cwd=Path(__file__).resolve().parents[1],
            # NNCF reports usage to its makers unless this says it runs unattended.
            env={**os.environ, "CI": "true"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ImportRefused(f"quantisation: {lines[-1]}")


def _quantise(onnx: Path, calibration: npt.NDArray[np.generic], path: Path) -> None:
    """NNCF's defaults: per-channel symmetric weights, per-tensor activations, bias correction.

    Activations of vision transformers are asymmetric, which its model type for them handles.
    """
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NNCF's own imports
        import nncf
        import openvino as ov

        # convert_model, unlike read_model, folds the constants behind which NNCF looks for
        # biases. Without it the correction of biases does nothing: on a random ResNet-50 the
        # largest logit error was 2.58 in place of 0.085.
        model = ov.convert_model(str(onnx))
        dataset = nncf.Dataset([sample[np.newaxis] for sample in calibration])
        quantised = nncf.quantize(
            model,
            dataset,
            subset_size=len(calibration),
            model_type=nncf.ModelType.TRANSFORMER if _has_attention(model) else None,
        )
        ov.save_model(quantised, path, compress_to_fp16=False)


def _has_attention(model: "ov.Model") -> bool:
    # ONNX spells attention as MatMul, Softmax, MatMul; a plain classifier ends in at most one
    # Softmax.
    softmax = [node for node in model.get_ordered_ops() if node.get_type_name() == "Softmax"]
    return len(softmax) > 1


if __name__ == "__main__":
    _quantise(Path(sys.argv[1]), np.load(sys.argv[2], allow_pickle=False), Path(sys.argv[3]))
