"""The onnxruntime engine: ONNX on a CPU, without torch."""

from pathlib import Path

import numpy as np
import onnxruntime

from image_classifier.artifact.record import Plan
from image_classifier.inference.engine import Batch, Logits


class OnnxRuntimeEngine:
    """One session, which runs batches of any size from several threads."""

    def __init__(self, path: Path, plan: Plan) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, plan.threads // plan.streams)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # operators cannot act on warnings about the graph
        # Spinning threads would occupy cores that decoding needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._input_name = self._session.get_inputs()[0].name

    def run(self, batch: Batch) -> Logits:
        """See `Engine.run`."""
        (logits,) = self._session.run(None, {self._input_name: np.ascontiguousarray(batch)})
        return np.asarray(logits, dtype=np.float32)
