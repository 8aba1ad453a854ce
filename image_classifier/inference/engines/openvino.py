"""The openvino engine: ONNX or OpenVINO IR on a CPU, without torch."""

import functools
import os
import queue

import numpy as np
import openvino as ov

from image_classifier.artifact.format import Precision
from image_classifier.artifact.record import Plan
from image_classifier.inference.engine import Batch, Logits


@functools.cache
def shared_core() -> ov.Core:
    """Return the process-wide OpenVINO core; it is never destroyed.

    The CPU plugin of OpenVINO 2026.4.1 gives the thread that loads it an alternate signal stack
    (sigaltstack), and frees the stack in the thread that destroys the last object of the core.
    If that is another thread, the next signal of the first one, such as SIGTERM, is a
    segmentation fault.
    """
    return ov.Core()


def _may_pin(threads: int) -> bool:
    """Return whether each thread may be bound to a core of its own.

    The scheduler of Linux often wakes two threads of one inference on the same core; pinned, a
    single image of ResNet-50 int8 takes 13 instead of 16 ms on two cores (docs/performance.md).
    Where a quota allows fewer cores than this process may run on, as in most containers, the
    threads of all containers would be pinned to the same first cores.
    """
    return threads >= len(os.sched_getaffinity(0))


class OpenVinoEngine:
    """One compiled model for each batch size, with `streams` infer requests each.

    Engines of one `ov.Model` share the weights that the plugin does not convert: a second engine
    of ResNet-50 in bf16 takes 61 MB instead of 157 MB.

    The infer requests own their input memory, and a batch is copied into it (about 10 µs for
    150 kB). OpenVINO 2026.4.1 can also share the caller's array, but accesses it after the call,
    and crashes if the array was freed (tests/inference/test_engines.py).
    """

    def __init__(
        self, model: ov.Model, precision: Precision, input_shape: tuple[int, ...], plan: Plan
    ) -> None:
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": plan.streams,
            "INFERENCE_NUM_THREADS": plan.threads,
            # Explicit, since the default may be bf16 on CPUs that have it.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "ENABLE_CPU_PINNING": _may_pin(plan.threads),
        }
        self._idle: dict[int, queue.SimpleQueue[ov.InferRequest]] = {}
        for batch_size in plan.batch_sizes:
            model.reshape([batch_size, *input_shape])
            compiled = shared_core().compile_model(model, "CPU", properties)
            requests: queue.SimpleQueue[ov.InferRequest] = queue.SimpleQueue()
            for _ in range(plan.streams):
                request = compiled.create_infer_request()
                # OpenVINO 2026.4.1 initialises numpy at the first access to a tensor; two threads
                # that do so at once deadlock, one holding the GIL, one a C++ guard.
                _ = request.get_input_tensor().data
                requests.put(request)
            self._idle[batch_size] = requests

    def run(self, batch: Batch) -> Logits:
        """See `Engine.run`."""
        idle = self._idle[len(batch)]
        request = idle.get()
        try:
            request.get_input_tensor().data[:] = batch
            request.infer()  # with one stream, in this thread; start_async always switches
            return np.array(request.get_output_tensor().data, dtype=np.float32)
        finally:
            idle.put(request)
