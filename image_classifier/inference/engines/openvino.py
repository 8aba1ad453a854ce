"""The openvino engine: ONNX or OpenVINO IR on a CPU, without torch."""

import functools
import queue

import numpy as np
import openvino as ov

from image_classifier.artifact.format import Precision
from image_classifier.artifact.record import Plan
from image_classifier.inference.engine import Batch, Logits


@functools.cache
def the_core() -> ov.Core:
    """The one of this process, which lives as long.

    The CPU plugin of OpenVINO 2026.4.1 gives the thread that loads it a stack for signals of its
    own, and frees it with the last object of its core, in whatever thread that is. In another
    thread, the first one keeps the freed stack, and the next signal it handles, a SIGTERM say,
    ends the process by a segmentation fault (sigaltstack, seen with strace).
    """
    return ov.Core()


class OpenVinoEngine:
    """One compiled model a batch size, and `streams` infer requests for each.

    Engines of one `ov.Model` share its weights where the plugin keeps them as they are: a second
    engine of ResNet-50 in bf16 takes 61 MB instead of 157 MB with a model of its own.

    The infer requests own their input memory and a batch is copied into it (150 kB take
    about 10 µs). OpenVINO 2026.4.1 can also share the caller's array, but goes on
    referring to it after the call, which crashed the process when the array was freed
    (docs/architecture.md, "Workarounds").
    """

    def __init__(
        self, model: ov.Model, precision: Precision, input_shape: tuple[int, ...], plan: Plan
    ) -> None:
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": plan.streams,
            "INFERENCE_NUM_THREADS": plan.threads,
            # Explicit: the default may silently be bf16 on CPUs that have it.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            # Where threads run is the system's to decide: pinned ones fight with decoding.
            "ENABLE_CPU_PINNING": False,
        }
        self._idle: dict[int, queue.SimpleQueue[ov.InferRequest]] = {}
        for batch_size in plan.batch_sizes:
            model.reshape([batch_size, *input_shape])
            compiled = the_core().compile_model(model, "CPU", properties)
            requests: queue.SimpleQueue[ov.InferRequest] = queue.SimpleQueue()
            for _ in range(plan.streams):
                request = compiled.create_infer_request()
                # Here, in one thread: the first look at a tensor sets up numpy inside
                # OpenVINO 2026.4.1, and two threads that do it at once wait for each other
                # for ever, one with the GIL, one with a C++ guard.
                _ = request.get_input_tensor().data
                requests.put(request)
            self._idle[batch_size] = requests

    def run(self, batch: Batch) -> Logits:
        """See `Engine.run`."""
        idle = self._idle[len(batch)]
        request = idle.get()
        try:
            request.get_input_tensor().data[:] = batch
            request.start_async()
            request.wait()
            return np.array(request.get_output_tensor().data, dtype=np.float32)
        finally:
            idle.put(request)
