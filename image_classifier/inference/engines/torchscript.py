"""The torchscript engine: a traced network, on a GPU where there is one."""

import warnings
from pathlib import Path

import numpy as np
import torch

from image_classifier.artifact.format import Precision
from image_classifier.artifact.record import Plan
from image_classifier.inference.engine import Batch, Logits

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def gpu_name() -> str | None:
    """Return the name of the GPU that the engine runs on, or None if torch finds none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


class TorchScriptEngine:
    """A frozen TorchScript graph; uint8 crosses to the device, normalisation runs there.

    The device is the first GPU that torch finds (CUDA_VISIBLE_DEVICES chooses among several), else
    the CPU. TorchScript is code, but of an interpreted language without file or network access,
    and it is loaded only after its digest matched.
    """

    def __init__(self, path: Path, precision: Precision, plan: Plan) -> None:
        self._device = torch.device("cpu" if gpu_name() is None else "cuda")
        if self._device.type == "cpu":
            torch.set_num_threads(max(1, plan.threads // plan.streams))
        else:
            # torch 2.14 lets cuDNN convolve float32 in TF32, with 10 bits of mantissa, not 23.
            torch.backends.cudnn.allow_tf32 = False
        with warnings.catch_warnings():
            # torch 2.14 deprecates TorchScript, which the GPU engine uses.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(  # type: ignore[no-untyped-call]
                str(path), map_location=self._device
            )
            self._module = torch.jit.freeze(module.eval())
        self._autocast = AUTOCAST.get(precision)

    def run(self, batch: Batch) -> Logits:
        """See `Engine.run`."""
        with (
            torch.inference_mode(),
            torch.autocast(
                self._device.type, dtype=self._autocast, enabled=self._autocast is not None
            ),
        ):
            inputs = torch.from_numpy(np.array(batch)).to(self._device)
            logits = self._module(inputs)
        return np.asarray(logits.float().cpu().numpy())
