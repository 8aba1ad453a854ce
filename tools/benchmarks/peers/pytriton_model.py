"""PyTriton: Triton Inference Server with its Python backend and dynamic batching."""

# This peer's packages are in the benchmark's own environment, where mypy does not look.
# mypy: disable-error-code="import-not-found, untyped-decorator"

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from tools.benchmarks.peers.common import TOP_K, open_classifier, predictions
from tools.benchmarks.workload import Array, workload_from_environment
from tools.load import LOOPBACK
from tools.serving import free_port

workload = workload_from_environment()
classifier = open_classifier(workload)
decoders = ThreadPoolExecutor(workload.threads)


@batch
def infer(image: Array) -> dict[str, Array]:
    """Infer one dynamic batch of files, bytes objects of shape (n, 1)."""
    inputs = np.stack(list(decoders.map(classifier.to_input, image[:, 0])))
    answers = [predictions(logits)["predictions"] for logits in classifier.forward(inputs)]
    return {
        "class_id": np.array([[each["class_id"] for each in answer] for answer in answers]),
        "probability": np.array(
            [[each["probability"] for each in answer] for answer in answers], dtype=np.float32
        ),
    }


if __name__ == "__main__":
    config = TritonConfig(
        http_address=LOOPBACK,
        http_port=int(sys.argv[1]),
        grpc_port=free_port(),
        metrics_port=free_port(),
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="classifier",
            infer_func=infer,
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[
                Tensor(name="class_id", dtype=np.int64, shape=(TOP_K,)),
                Tensor(name="probability", dtype=np.float32, shape=(TOP_K,)),
            ],
            config=ModelConfig(
                max_batch_size=16,
                batcher=DynamicBatcher(max_queue_delay_microseconds=2000),
            ),
        )
        triton.serve()
