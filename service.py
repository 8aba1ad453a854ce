"""The service: ImageClassifier answers HTTP, ModelRunner owns the network where it runs apart."""

import asyncio
import functools
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from _bentoml_sdk import Service
from bentoml.exceptions import BentoMLException, ServiceUnavailable
from bentoml.models import BentoModel

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.store import locate, read_lock
from image_classifier.bentoml_compat import let_requests_finish, let_workers_refuse, or_refuse
from image_classifier.errors import NotReady
from image_classifier.http.app import App, Edge
from image_classifier.http.metrics import RequestMetrics
from image_classifier.http.openapi import openapi_document
from image_classifier.http.schemas import engine_card, model_card
from image_classifier.inference.classifier import Classifier
from image_classifier.inference.machine import usable_cores
from image_classifier.inference.runner import (
    CALL_TIMEOUT_S,
    MAX_CALL_INPUTS,
    LocalRunner,
    RemoteRunner,
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

try:
    SETTINGS = Settings.from_env(os.environ)
    LOCK = read_lock(Path(__file__).resolve().parent / SETTINGS.lock)
    MODEL_ROOT = locate(LOCK.tag)
except OperatorError as error:
    # BentoML prints this kind in one line and exits with status 1.
    raise BentoMLException(str(error)) from error

EMBEDDED = SETTINGS.topology == "embedded"
CORES = usable_cores()
API_WORKERS = SETTINGS.workers or (1 if EMBEDDED else CORES)
KEEP_CONNECTIONS = {"max_requests": 2**31 - 1, "max_age": 1e9}
"""BentoML 1.4.39 makes its client to the runner anew every 100 requests and closes the old one
with all calls in flight, which fail; these numbers mean never (BentoML issue 5540)."""


@functools.cache
def opened(*, graphs: bool) -> Artifact:
    """The artifact of the lock, verified once a process; `graphs` as there."""
    return open_for_serving(
        MODEL_ROOT,
        LOCK.manifest_sha256,
        LOCK.evidence_sha256,
        public_key=SETTINGS.public_key,
        graphs=graphs,
    )


@bentoml.service(
    name="ModelRunner",
    workers=1,
    traffic={"timeout": CALL_TIMEOUT_S},
    runner_connection=KEEP_CONNECTIONS,
    logging={"access": {"enabled": False}},  # a line a batch says nothing the metrics do not
)
class ModelRunner:
    """Owns the network: the adaptive-batching runner.

    In the runner topology it is one process, and BentoML's dispatcher merges what the API
    processes send. In the embedded topology BentoML makes it inside each API process.
    """

    model = BentoModel(LOCK.tag)

    @or_refuse()
    def __init__(self) -> None:
        self.executor = load_executor(
            opened(graphs=True),
            engine=SETTINGS.engine,
            budget_ms=SETTINGS.budget_ms,
            deterministic=SETTINGS.deterministic,
        )
        freeze_garbage()

    @bentoml.api(
        batchable=True,
        batch_dim=(0, 0),
        max_batch_size=MAX_CALL_INPUTS,
        # Not a window to wait in: the dispatcher drops what would wait longer. Admission, in
        # the API processes, refuses far earlier.
        max_latency_ms=CALL_TIMEOUT_S * 1_000,
    )
    def infer(self, batch: np.ndarray) -> np.ndarray:
        """Logits, float32 (n, classes), of a batch (n, H, W, C)."""
        return self.executor.run(batch)

    @bentoml.api
    def plan(self) -> dict[str, Any]:
        """Return the plan of the engine that this process runs."""
        return self.executor.plan.model_dump(mode="json")


class EdgeService(Service[Any]):
    """BentoML's service behind our HTTP edge.

    `service_class` is how BentoML lets a service be more than its own class; `to_asgi` is
    what its workers serve.
    """

    def to_asgi(self, is_main: bool = True) -> App:
        """See `Edge`."""
        app = super().to_asgi(is_main)
        return Edge(
            app,
            service=bentoml.get_current_service,
            max_body_bytes=SETTINGS.max_body_bytes,
            max_bodies_bytes=SETTINGS.max_bodies_bytes,
        )


@bentoml.service(
    name="ImageClassifier",
    workers=API_WORKERS,
    traffic={"timeout": 60},
    service_class=EdgeService,
)
class ImageClassifier:
    """Classifies images: decodes, infers through the batcher, ranks."""

    model = BentoModel(LOCK.tag)
    runner = bentoml.depends(ModelRunner)

    @bentoml.on_deployment
    @staticmethod
    def prepare() -> None:
        """Runs once, in the supervisor: check the lock and choose the processes to start."""
        let_workers_refuse()
        try:
            opened(graphs=False).labels()
        except OperatorError as error:
            raise BentoMLException(str(error)) from error
        if EMBEDDED:
            # BentoML starts a process for each dependency it finds here. Taken out in the
            # supervisor only: the bento lists both services, and in a worker BentoML makes a
            # dependency that has no process in place.
            ImageClassifier.dependencies.pop("runner", None)  # type: ignore[attr-defined]
        else:
            from bentoml._internal.utils.circus import Arbiter  # of no use in a worker

            let_requests_finish(Arbiter)

    @or_refuse()
    def __init__(self) -> None:
        self._artifact = opened(graphs=EMBEDDED)
        if not EMBEDDED:  # embedded, loading the executor has checked it
            check_preprocessing(self._artifact, self._artifact.preprocessing())
        self.metrics = RequestMetrics()
        self.classifier = Classifier(
            self._artifact,
            self._local_runner() if EMBEDDED else self._remote_runner(),
            limits=_decode_limits(),
            cores=CORES,
            workers=API_WORKERS,
            max_in_flight=SETTINGS.max_queue,
            max_wait_ms=SETTINGS.longest_wait_ms,
            overload_wait_ms=SETTINGS.longest_overload_wait_ms,
            timeout_ms=SETTINGS.timeout_ms,
            default_top_k=SETTINGS.default_top_k,
        )
        freeze_garbage()

    def _local_runner(self) -> LocalRunner:
        return LocalRunner(self.runner.executor)

    def _remote_runner(self) -> RemoteRunner:
        return RemoteRunner(
            self.runner,
            self._artifact.record,
            budget_ms=SETTINGS.budget_ms,
            unavailable=ServiceUnavailable,
        )

    @bentoml.api
    async def classify(self, image: Path, top_k: int | None = None) -> dict[str, Any]:
        """Classify one image file; what BentoML's own clients see. HTTP is answered by `Edge`."""
        data = await asyncio.to_thread(image.read_bytes)
        answer = await self.classifier.classify(data, top_k)
        return {"predictions": [asdict(one) for one in answer.predictions]}

    async def check_ready(self) -> None:
        """Raise NotReady where the runner does not answer; a worker that answers is well."""
        if not await self.classifier.runner.is_ready():
            raise NotReady("the model cannot be reached; try again")

    async def model_card(self) -> dict[str, Any]:
        """Return what is loaded, as `GET /model` shows it."""
        plan = await self.classifier.runner.describe()
        engine = engine_card(self._artifact.evidence, plan)
        return model_card(LOCK, self._artifact, engine, SETTINGS.topology)

    def openapi(self) -> dict[str, Any]:
        """The document behind Swagger UI."""
        return openapi_document(LOCK.tag, self._artifact.labels(), SETTINGS.default_top_k)

    @property
    def model_reference(self) -> dict[str, str]:
        """What every answer says of the model."""
        return {"tag": LOCK.tag, "digest": LOCK.manifest_sha256}


def _decode_limits() -> DecodeLimits:
    given = SETTINGS.model_dump(include=set(DecodeLimits.model_fields))
    return DecodeLimits(max_bytes=SETTINGS.max_body_bytes, **given)
