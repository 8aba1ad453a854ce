"""FastAPI with eager PyTorch in float32: what a research notebook becomes first."""

# The checker does not see this peer's packages: they are in an environment of its own.
# mypy: disable-error-code="import-not-found, misc, untyped-decorator, no-any-return, attr-defined"

import sys
import threading
from typing import Any

import torch
import torchvision
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from safetensors.torch import load_file

from benchmarks.peers.steps import predictions, to_input, workload_from_environment

workload = workload_from_environment()
torch.set_num_threads(workload.threads)
network = getattr(torchvision.models, workload.architecture)(weights=None)
network.load_state_dict(load_file(workload.weights))
network.eval()
mean = torch.tensor(workload.mean).view(3, 1, 1) * 255
std = torch.tensor(workload.std).view(3, 1, 1) * 255
model_lock = threading.Lock()
app = FastAPI()


def classify_file(data: bytes) -> dict[str, Any]:
    """Decode in this thread, infer in turn."""
    pixels = torch.from_numpy(to_input(data, workload).copy()).permute(2, 0, 1)  # (3, H, W)
    with model_lock, torch.inference_mode():
        logits = network(((pixels.float() - mean) / std)[None])[0]
    return predictions(logits.numpy())


@app.post("/classify")
async def classify(request: Request) -> dict[str, Any]:
    """The file is the body."""
    return await run_in_threadpool(classify_file, await request.body())


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False)
