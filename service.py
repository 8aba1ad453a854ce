"""The two BentoML services: wiring only. docs/architecture.md follows a request through them."""

import asyncio
import functools
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
import numpy as np
from bentoml.exceptions import ServiceUnavailable
from bentoml.models import BentoModel

from image_classifier import bentoml_compat as compat
from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.record import read_record
from image_classifier.artifact.store import locate
from image_classifier.http.metrics import RequestMetrics
from image_classifier.http.runner_calls import PATH, RunnerCalls
from image_classifier.inference import startup
from image_classifier.inference.classifier import Classifier
from image_classifier.inference.machine import usable_cores, visible_gpus
from image_classifier.inference.plan import api_processes
from image_classifier.inference.runner import (
    CALL_TIMEOUT_S,
    MAX_CALL_INPUTS,
    LocalRunner,
    RemoteRunner,
    Runner,
)
from image_classifier.inference.shared_inputs import SharedInputsReader
from image_classifier.logs import configure_logging
from image_classifier.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

with compat.one_line_errors():
    settings = Settings.from_env(os.environ)
    lock = compat.locked_model(Path(__file__).resolve().parent / settings.lock)
    model_root = locate(lock.tag)
    record = read_record(model_root)
configure_logging(settings.log_format)
startup.STEP_LISTENERS.append(compat.tell_supervisor_step)

cores = usable_cores()
gpus = visible_gpus(os.environ) if record.for_gpu else ()
embedded = (settings.topology or ("runner" if gpus else "embedded")) == "embedded"
workers = settings.workers or api_processes(record, cores, on_gpu=bool(gpus), embedded=embedded)
compat.prepare_process(settings.keep_alive_s)
metrics = RequestMetrics()
calls = RunnerCalls()


@functools.cache
def app() -> "FastAPI":
    """Return the HTTP application; processes that do not answer HTTP never import it."""
    from image_classifier.http.app import create_app

    return create_app(settings, lock, metrics)


@functools.cache
def open_locked(*, graphs: bool = True) -> Artifact:
    """Verify and open the locked artifact once per process; `graphs` as for `open_artifact`."""
    digests = lock.manifest_sha256, lock.evidence_sha256
    return startup.open_for_serving(
        model_root, *digests, public_key=settings.public_key, graphs=graphs
    )


@bentoml.service(
    name="ModelRunner",
    workers=max(1, len(gpus)),
    resources={"gpu": 1} if record.for_gpu else {},
    traffic={"timeout": CALL_TIMEOUT_S},
    runner_connection=compat.KEEP_CONNECTIONS,
    logging={"access": {"enabled": False}},  # one line per batch
    service_class=compat.MountedAppFirst,
)
@bentoml.asgi_app(calls, path=PATH)
class ModelRunner:
    """Runs the network on batches of inputs from all API processes."""

    model = BentoModel(lock.tag)

    @compat.one_line_errors()
    def __init__(self) -> None:
        compat.select_gpu(gpus)
        artifact = open_locked()
        self.executor = startup.load_executor(
            artifact,
            engine=settings.engine,
            budget_ms=settings.budget_ms,
            deterministic=settings.deterministic,
            processes=workers if embedded else 1,
        )
        self.shared_inputs = SharedInputsReader(artifact.manifest.input)
        calls.serve(self.executor, self.shared_inputs)
        metrics.serves(lock.tag, artifact.evidence.engine(self.executor.plan.engine))
        if compat.is_first_worker():
            place: dict[str, object] = {
                "topology": "embedded" if embedded else "runner",
                "api_processes": workers,
                "address": compat.service_address(),
            }
            startup.log_start(artifact, lock.tag, self.executor.plan, settings, place)
        if not embedded:  # else `ImageClassifier` does so in this process
            startup.settle_memory(artifact.root)

    # `max_latency_ms` is not a batching window: the dispatcher drops calls that would wait longer.
    # Admission in the API processes refuses far earlier.
    @bentoml.api(
        batchable=True,
        batch_dim=(0, 0),
        max_batch_size=MAX_CALL_INPUTS,
        max_latency_ms=CALL_TIMEOUT_S * 1_000,
    )
    def infer(self, batch: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (n, classes), of a batch (n, H, W, C)."""
        return self.executor.run(batch)

    @bentoml.api
    def can_open(self, process: int, descriptor: int) -> bool:
        """Return whether this process can read another process's `SharedInputs`."""
        with suppress(OSError):
            self.shared_inputs.open(process, descriptor)
            return True
        return False

    @bentoml.api
    def describe(self) -> list[Any]:
        """Return the fields of `RunnerDescription`, as JSON."""
        plan = self.executor.plan.model_dump(mode="json")
        return [plan, self.executor.accelerator, startup.START_STEPS]


@bentoml.service(
    name="ImageClassifier",
    workers=workers,
    service_class=compat.MountedAppFirst,
    **compat.API_CONFIG,
)
@bentoml.asgi_app(app)  # called by MountedAppFirst
class ImageClassifier:
    """Classifies images over HTTP."""

    model = BentoModel(lock.tag)
    runner = bentoml.depends(ModelRunner)

    @bentoml.on_deployment
    @staticmethod
    def prepare() -> None:
        """Check the artifact once, in the supervisor, before a worker starts."""
        compat.prepare_supervisor(ImageClassifier, lock, with_runner=not embedded)
        with compat.one_line_errors():
            open_locked(graphs=False).labels()

    @compat.one_line_errors()
    def __init__(self) -> None:
        owner = self.runner  # the object, or a proxy where it has a process of its own
        runner: Runner
        if isinstance(owner, ModelRunner.inner):  # type: ignore[attr-defined]  # set by BentoML
            artifact = open_locked()
            runner = LocalRunner(owner.executor)
        else:
            artifact = open_locked(graphs=False)
            startup.check_preprocessing(artifact, artifact.preprocessing)
            runner = RemoteRunner(
                owner,
                compat.runner_exchange(owner, PATH),
                artifact.record,
                artifact.manifest.input,
                settings.budget_ms,
                ServiceUnavailable,
            )
        self.classifier = Classifier(
            artifact,
            runner,
            settings,
            cores=cores,
            workers=workers,
            shared_folder=compat.shared_folder(),
        )
        app().state.artifact = artifact
        app().state.classifier = self.classifier
        compat.install_early_answers(app(), settings.budget_ms / 1e3)
        compat.share_connections(workers)
        startup.settle_memory(artifact.root)
        compat.tell_supervisor_ready()

    @bentoml.on_shutdown
    def close_error_log(self) -> None:
        """Log the number of errors that were left out."""
        from image_classifier.http.app import error_log

        error_log.close()

    @bentoml.api
    async def classify(self, image: Path, top_k: int | None = None) -> dict[str, Any]:
        """Declare /classify for BentoML's clients; over HTTP, `app` answers it."""
        data = await asyncio.to_thread(image.read_bytes)
        answer = await self.classifier.classify(data, top_k)
        return {"predictions": [asdict(prediction) for prediction in answer.predictions]}

    async def __is_ready__(self) -> bool:
        """Answer /readyz."""
        return await self.classifier.runner.is_ready()

    async def __is_alive__(self) -> bool:
        """Answer /livez."""
        return await self.classifier.is_alive()
