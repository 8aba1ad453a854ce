"""Post-training quantisation of the ONNX graph to int8 (NNCF)."""

import logging
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from importer.errors import ImportRefused


def quantise(onnx: Path, calibration: npt.NDArray[np.generic], path: Path) -> None:
    """Write an int8 OpenVINO graph, in a separate process.

    OpenVINO and NNCF number names by counters of the process: only in a fresh one does the same
    network give the same bytes, and so the same tag.

    Args:
        calibration: Inputs whose activations decide the ranges, (m, H, W, C).
        path: The .xml to write; the weights go beside it as .bin.

    Raises:
        ImportRefused: The quantisation failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "calibration.npy"
        np.save(inputs, calibration, allow_pickle=False)
        done = subprocess.run(  # noqa: S603  (this program, no client input)
            [sys.executable, "-m", "importer.quantise", str(onnx), str(inputs), str(path)],
            cwd=Path(__file__).resolve().parents[1],
            # NNCF reports usage to its makers unless this marks an unattended run.
            env={**os.environ, "CI": "true"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.stderr.write(done.stderr)  # `quiet_exporter` logs it
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ImportRefused(f"quantisation: {lines[-1]}")


def _quantise(onnx: Path, calibration: npt.NDArray[np.generic], path: Path) -> None:
    """Quantise with NNCF's defaults and, for attention, its model type for transformers."""
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NNCF's own imports
        import nncf
        import openvino as ov

        # convert_model, unlike read_model, folds the constants that hide biases from NNCF's bias
        # correction. Without it the largest logit error of a random ResNet-50 was 2.58, not 0.085.
        model = ov.convert_model(str(onnx))
        # ONNX writes attention as MatMul, Softmax, MatMul; other classifiers have one Softmax at
        # most, at the end. Activations of attention are asymmetric.
        operators = [node.get_type_name() for node in model.get_ordered_ops()]
        attention = operators.count("Softmax") > 1
        quantised = nncf.quantize(
            model,
            nncf.Dataset([sample[np.newaxis] for sample in calibration]),
            subset_size=len(calibration),
            model_type=nncf.ModelType.TRANSFORMER if attention else None,
        )
        ov.save_model(quantised, path, compress_to_fp16=False)


if __name__ == "__main__":
    _quantise(Path(sys.argv[1]), np.load(sys.argv[2], allow_pickle=False), Path(sys.argv[3]))
