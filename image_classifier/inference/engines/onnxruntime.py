"""The onnxruntime engine: ONNX without torch, on a CPU, or on a GPU with onnxruntime-gpu.

It has not run on a GPU yet.
"""

import os
import queue
from pathlib import Path

import numpy as np
import onnxruntime

from image_classifier.artifact.record import Plan
from image_classifier.inference.engine import Batch, EngineUnavailable, Logits
from image_classifier.inference.machine import first_gpu

CUDA = "CUDAExecutionProvider"
CUDA_OPTIONS = {
    "use_tf32": "0",  # TF32 has 10 bits of mantissa instead of 23
    "cudnn_conv_algo_search": "HEURISTIC",  # the default tries all at the first run of each shape
    "arena_extend_strategy": "kSameAsRequested",  # the default doubles the memory
}


def gpu_name() -> str | None:
    """Return the name of the GPU that the engine runs on; None without one or onnxruntime-gpu."""
    return first_gpu(os.environ) if CUDA in onnxruntime.get_available_providers() else None


class _Buffers:
    """The inputs of one stream on the device, one for each batch size."""

    def __init__(self, session: onnxruntime.InferenceSession, device: str) -> None:
        self._session, self._device = session, device
        self._bound: dict[int, tuple[onnxruntime.OrtValue, onnxruntime.IOBinding]] = {}

    def run(self, batch: Batch) -> Logits:
        if len(batch) not in self._bound:
            # Not of the batch: on a CPU that would use the caller's memory.
            pixels = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                batch.shape, batch.dtype.type, self._device
            )
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(self._session.get_inputs()[0].name, pixels)
            binding.bind_output(self._session.get_outputs()[0].name, self._device)
            self._bound[len(batch)] = pixels, binding
        pixels, binding = self._bound[len(batch)]
        pixels.update_inplace(batch)
        self._session.run_with_iobinding(binding)
        return np.array(binding.copy_outputs_to_cpu()[0], dtype=np.float32)


class OnnxRuntimeEngine:
    """One session, which runs batches of any size from several threads.

    Raises:
        EngineUnavailable: There is a GPU, and onnxruntime-gpu cannot use it.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, plan.threads // plan.streams)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # operators cannot act on warnings about the graph
        # Spinning threads would occupy cores that decoding needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        gpu = gpu_name()
        if gpu is not None:
            onnxruntime.preload_dlls()  # CUDA's, from their wheels
        session = onnxruntime.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"] if gpu is None else [(CUDA, CUDA_OPTIONS)],
        )
        # Where CUDA's libraries cannot be loaded, onnxruntime goes on with the CPU.
        if gpu is not None and session.get_providers()[0] != CUDA:
            raise EngineUnavailable(
                f"onnxruntime-gpu cannot use {gpu}; install the versions of CUDA and cuDNN that "
                "its log names"
            )
        self._idle: queue.SimpleQueue[_Buffers] = queue.SimpleQueue()
        for _ in range(plan.streams):
            self._idle.put(_Buffers(session, "cpu" if gpu is None else "cuda"))

    def run(self, batch: Batch) -> Logits:
        """See `Engine.run`."""
        buffers = self._idle.get()
        try:
            return buffers.run(np.ascontiguousarray(batch))
        finally:
            self._idle.put(buffers)
