"""The two BentoML services: wiring only. docs/architecture.md walks a request through them."""

import asyncio
import functools
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from bentoml.exceptions import BentoMLException, ServiceUnavailable
from bentoml.models import BentoModel

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.store import locate, read_lock
from image_classifier.bentoml_compat import (
    API_CONFIG,
    KEEP_CONNECTIONS,
    MountedAppFirst,
    prepare_process,
    prepare_supervisor,
    stop_server_on_failure,
)
from image_classifier.http.app import create_app
from image_classifier.http.schemas import EngineCard, ModelCard
from image_classifier.inference.classifier import Classifier
from image_classifier.inference.machine import usable_cores
from image_classifier.inference.runner import (
    CALL_TIMEOUT_S,
    MAX_CALL_INPUTS,
    LocalRunner,
    RemoteRunner,
    Runner,
)
from image_classifier.inference.startup import (
    check_preprocessing,
    freeze_garbage,
    load_executor,
    open_for_serving,
)
from image_classifier.settings import Settings
from preprocessing import DecodeLimits
from preprocessing.errors import OperatorError

prepare_process()
try:
    settings = Settings.from_env(os.environ)
    lock = read_lock(Path(__file__).resolve().parent / settings.lock)
    model_root = locate(lock.tag)
except OperatorError as error:
    # BentoML prints this kind in one line and exits with status 1.
    raise BentoMLException(str(error)) from error

app = create_app(settings, lock)
embedded = settings.topology == "embedded"
cores = usable_cores()
api_workers = settings.workers or (1 if embedded else cores)


def decode_limits() -> DecodeLimits:
    """Return what the settings allow one image file to cost."""
    chosen = settings.model_dump(include=set(DecodeLimits.model_fields))
    return DecodeLimits(max_bytes=settings.max_body_bytes, **chosen)


@functools.cache
def open_locked(*, graphs: bool) -> Artifact:
    """Open the artifact of the lock, verified once a process; `graphs` as there."""
    return open_for_serving(
        model_root,
        lock.manifest_sha256,
        lock.evidence_sha256,
        public_key=settings.public_key,
        graphs=graphs,
    )


@bentoml.service(
    name="ModelRunner",
    workers=1,
    traffic={"timeout": CALL_TIMEOUT_S},
    runner_connection=KEEP_CONNECTIONS,
    logging={"access": {"enabled": False}},  # a line per batch says nothing the metrics do not
)
class ModelRunner:
    """Owns the network; BentoML's dispatcher merges what several API processes send."""

    model = BentoModel(lock.tag)

    @stop_server_on_failure
    def __init__(self) -> None:
        self.executor = load_executor(
            open_locked(graphs=True),
            engine=settings.engine,
            budget_ms=settings.budget_ms,
            deterministic=settings.deterministic,
        )
        freeze_garbage()

    # max_latency_ms is no window to wait in: the dispatcher drops what would wait longer.
    # Admission, in the API processes, refuses far earlier.
    @bentoml.api(
        batchable=True,
        batch_dim=(0, 0),
        max_batch_size=MAX_CALL_INPUTS,
        max_latency_ms=CALL_TIMEOUT_S * 1_000,
    )
    def infer(self, batch: np.ndarray) -> np.ndarray:
        """Return logits, float32 (n, classes), of a batch (n, H, W, C)."""
        return self.executor.run(batch)

    @bentoml.api
    def plan(self) -> dict[str, Any]:
        """Return the plan by which the network runs, as JSON."""
        return self.executor.plan.model_dump(mode="json")


@bentoml.service(
    name="ImageClassifier", workers=api_workers, service_class=MountedAppFirst, **API_CONFIG
)
@bentoml.asgi_app(app)
class ImageClassifier:
    """Classifies images over HTTP."""

    model = BentoModel(lock.tag)
    runner = bentoml.depends(ModelRunner)

    @bentoml.on_deployment
    @staticmethod
    def prepare() -> None:
        """Check the artifact once, in the supervisor, before a worker starts."""
        prepare_supervisor(ImageClassifier, with_runner=not embedded)
        try:
            open_locked(graphs=False).labels()
        except OperatorError as error:
            raise BentoMLException(str(error)) from error

    @stop_server_on_failure
    def __init__(self) -> None:
        artifact = open_locked(graphs=embedded)
        runner: Runner
        if embedded:
            runner = LocalRunner(self.runner.executor)
        else:
            check_preprocessing(artifact, artifact.preprocessing())
            runner = RemoteRunner(
                self.runner,
                artifact.record,
                budget_ms=settings.budget_ms,
                unavailable=ServiceUnavailable,
            )
        self.classifier = Classifier(
            artifact,
            runner,
            limits=decode_limits(),
            cores=cores,
            workers=api_workers,
            max_in_flight=settings.max_queue,
            max_wait_ms=settings.longest_wait_ms,
            overload_wait_ms=settings.longest_overload_wait_ms,
            timeout_ms=settings.timeout_ms,
            default_top_k=settings.default_top_k,
        )
        app.state.classifier = self.classifier
        app.state.describe_model = self.describe_model
        freeze_garbage()

    @bentoml.api
    async def classify(self, image: Path, top_k: int | None = None) -> dict[str, Any]:
        """Tell BentoML's clients how to call /classify; over HTTP `app` answers it."""
        data = await asyncio.to_thread(image.read_bytes)
        answer = await self.classifier.classify(data, top_k)
        return {"predictions": [asdict(prediction) for prediction in answer.predictions]}

    async def __is_ready__(self) -> bool:
        """Answer /readyz."""
        return await self.classifier.runner.is_ready()

    async def describe_model(self) -> ModelCard:
        """Answer GET /model."""
        artifact = open_locked(graphs=embedded)
        engine = EngineCard.of(artifact.evidence, await self.classifier.runner.describe())
        return ModelCard.of(lock, artifact, engine, settings.topology)
