"""FastAPI and uvicorn, the plain service: one endpoint, worker threads, a lock around the model."""

# This peer's packages are in the benchmark's own environment, where mypy does not look.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"

import sys
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from tools.benchmarks.peers.common import open_classifier, predictions
from tools.benchmarks.workload import workload_from_environment

classifier = open_classifier(workload_from_environment())
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
    """Classify the file that is the body."""
    return await run_in_threadpool(classify_file, await request.body())


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False)
