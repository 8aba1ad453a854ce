"""Measures the runner alone: processes that call it, without HTTP and decoding.

BentoML serves it as it serves the product, with this service in place of `ImageClassifier`.
"""

import asyncio
import json
import os
import threading
import time
from pathlib import Path

import bentoml
import numpy as np
from bentoml.exceptions import ServiceUnavailable

import service
from image_classifier import bentoml_compat as compat
from image_classifier.http.runner_calls import PATH
from image_classifier.inference.engine import Logits
from image_classifier.inference.runner import CALLS_IN_FLIGHT, RemoteRunner
from image_classifier.inference.startup import golden_inputs

load = json.loads(os.environ["HOP"])
"""Number of processes, seconds, images per call, and the folder where each process writes its
counts."""


@bentoml.service(name="Hop", workers=load["processes"], **compat.API_CONFIG)
class Hop:
    """Calls the runner from each of its processes, once all of them are ready."""

    runner = bentoml.depends(service.ModelRunner)

    def __init__(self) -> None:
        threading.Thread(target=lambda: asyncio.run(self.drive()), daemon=True).start()

    async def drive(self) -> None:
        """Write [images per second, wrong answers] to a file of this process."""
        folder = Path(load["folder"])
        artifact = service.open_locked(graphs=False)
        inputs = golden_inputs(artifact, artifact.preprocessing)
        spec, budget_ms = artifact.manifest.input, service.settings.budget_ms
        exchange = compat.runner_exchange(self.runner, PATH)
        runner = RemoteRunner(
            self.runner, exchange, artifact.record, spec, budget_ms, ServiceUnavailable
        )
        expected = np.concatenate([await runner.run(item[np.newaxis]) for item in inputs])
        size = min(load["images"], runner.max_batch_size)
        (folder / f"{os.getpid()}.ready").touch()
        while len(list(folder.glob("*.ready"))) < load["processes"]:
            await asyncio.sleep(0.01)
        counts, begun = [0, 0], time.perf_counter()

        async def repeat(first: int) -> None:
            while time.perf_counter() < begun + load["seconds"]:
                chosen = np.arange(first, first + size) % len(inputs)
                logits = await runner.run(inputs[chosen])
                counts[0] += size
                counts[1] += _wrong(logits, expected[chosen])
                first += size

        await asyncio.gather(*(repeat(number) for number in range(CALLS_IN_FLIGHT)))
        rate = counts[0] / (time.perf_counter() - begun)
        (folder / f"{os.getpid()}.json").write_text(json.dumps([rate, counts[1]]))


def _wrong(logits: Logits, expected: Logits) -> int:
    """Count rows that differ by more than a twentieth of their spread, as other images' do."""
    spread = expected.max(axis=1) - expected.min(axis=1)
    return int((np.abs(logits - expected).max(axis=1) > 0.05 * spread).sum())
