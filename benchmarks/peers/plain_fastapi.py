"""FastAPI and uvicorn, the plain service: one endpoint, worker threads, a lock around the model."""

# The checker does not see this peer's packages: they are in an environment of its own.
# mypy: disable-error-code="import-not-found, misc, untyped-decorator, no-any-return, attr-defined"

import sys
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from benchmarks.peers.classifier import Classifier
from benchmarks.peers.steps import predictions, workload_from_environment

workload = workload_from_environment()
classifier = Classifier(workload, streams=1, threads=workload.threads)
model_lock = threading.Lock()
app = FastAPI()


def classify_file(data: bytes) -> dict[str, Any]:
    """Decode in this thread, infer in turn."""
    image = classifier.to_input(data)
    with model_lock:
        logits = classifier.forward(image[None])
    return predictions(logits[0])


@app.post("/classify")
async def classify(request: Request) -> dict[str, Any]:
    """The file is the body."""
    return await run_in_threadpool(classify_file, await request.body())


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False)
