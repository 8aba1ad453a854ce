"""Writes the network as a graph: ONNX or TorchScript, with a free batch dimension."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

OPSET = 20
"""ONNX operator set: the newest that both OpenVINO 2026.4 and onnxruntime 1.32 run whole."""


def export_onnx(network: nn.Module, inputs: npt.NDArray[np.generic], path: Path) -> None:
    """Write an ONNX graph.

    Args:
        network: `PixelsToLogits` in evaluation mode.
        inputs: Example inputs, shape (n, H, W, C), n of 1 or more.
        path: Where to write it.
    """
    with _quiet_exporter():
        torch.onnx.export(
            network,
            (_example(inputs),),
            path,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["batch"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            verbose=False,
        )


def export_torchscript(network: nn.Module, inputs: npt.NDArray[np.generic], path: Path) -> None:
    """Write a traced TorchScript graph; arguments as for `export_onnx`."""
    with torch.inference_mode(), warnings.catch_warnings():
        # torch 2.14 says it will keep TorchScript for existing users only; ONNX is our default.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            network, _example(inputs), check_trace=False
        )
        torch.jit.save(torch.jit.freeze(traced), str(path))


def _example(inputs: npt.NDArray[np.generic]) -> torch.Tensor:
    # Two inputs: from a batch of one the exporter would take the batch dimension for a constant.
    return torch.from_numpy(inputs[[0, -1]])


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    # The exporter warns about its own internals and logs every pass; failures still raise.
    names = ("torch.onnx", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
