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
from image_classifier.http.app import App, Edge
from image_classifier.http.metrics import RequestMetrics
from image_classifier.http.openapi import openapi_document
from image_classifier.http.schemas import engine_card, model_card
from image_classifier.inference.admission import Admission
from image_classifier.inference.batcher import RunBatch
from image_classifier.inference.classifier import Classifier
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.machine import usable_cores
from image_classifier.inference.pipeline import (
    COALESCED,
    Pipeline,
    ToInput,
    embedded_pipeline,
    remote_pipeline,
)
from image_classifier.inference.runner import from_runner
from image_classifier.inference.startup import (
    check_preprocessing,
    freeze_garbage,
    load_executor,
    open_for_serving,
)
from image_classifier.settings import Settings
from preprocessing import DecodeLimits
from preprocessing import to_input as preprocess
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
RUNNER_TIMEOUT_S = 30  # of one call to the runner
PROBE_TIMEOUT_S = 2
"""Of a readiness probe. BentoML 1.4.39 does not catch its own time limit where the runner is dead
(_bentoml_impl/client/proxy2.py, `is_ready`): its probe hangs for `traffic.timeout`."""
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
    traffic={"timeout": RUNNER_TIMEOUT_S},
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
        max_batch_size=COALESCED,
        # Not a window to wait in: the dispatcher drops what would wait longer. Admission, in
        # the API processes, refuses far earlier.
        max_latency_ms=RUNNER_TIMEOUT_S * 1_000,
    )
    def infer(self, batch: np.ndarray) -> np.ndarray:
        """Logits, float32 (n, classes), of a batch (n, H, W, C)."""
        return self.executor.run(batch, lambda: True)

    @bentoml.api
    def loaded(self) -> dict[str, Any]:
        """The engine this process runs, and how."""
        return engine_card(opened(graphs=True).evidence, self.executor.plan)


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
        self._labels = self._artifact.labels()
        preprocessing = self._artifact.preprocessing()
        if not EMBEDDED:  # embedded, loading the executor has checked it
            check_preprocessing(self._artifact, preprocessing)
        self.metrics = RequestMetrics()
        to_input = functools.partial(
            preprocess, preprocessing=preprocessing, limits=_decode_limits()
        )
        self.classifier = Classifier(
            self._embedded(to_input) if EMBEDDED else self._remote(to_input),
            self._admission(),
            self._labels,
            timeout_ms=SETTINGS.timeout_ms,
            default_top_k=SETTINGS.default_top_k,
        )
        freeze_garbage()

    def _embedded(self, to_input: ToInput) -> Pipeline:
        return embedded_pipeline(self.runner.executor, to_input, CORES)

    def _remote(self, to_input: ToInput) -> Pipeline:
        return remote_pipeline(
            self._run_remotely(),
            to_input,
            max(1, CORES // API_WORKERS),
            image_ms=self._image_ms(),
            budget_ms=SETTINGS.budget_ms,
        )

    def _admission(self) -> Admission:
        return Admission(
            max_in_flight=SETTINGS.max_queue,
            max_wait_ms=SETTINGS.longest_wait_ms,
            overload_wait_ms=SETTINGS.longest_overload_wait_ms,
            answer_interval_ms=self._image_ms() * API_WORKERS,
            parallel=CORES,
        )

    def _image_ms(self) -> float:
        if EMBEDDED:
            return self.runner.executor.plan.image_ms
        record = self._artifact.record
        return record.plan.image_ms if record else 1.0

    def _run_remotely(self) -> RunBatch:
        async def run_batch(batch: Batch) -> Logits:
            infer = functools.partial(self.runner.to_async.infer, batch)
            return await from_runner(infer, timeout_s=RUNNER_TIMEOUT_S, refusal=ServiceUnavailable)

        return run_batch

    @bentoml.api
    async def classify(self, image: Path, top_k: int | None = None) -> dict[str, Any]:
        """Classify one image file; what BentoML's own clients see. HTTP is answered by `Edge`."""
        data = await asyncio.to_thread(image.read_bytes)
        answer = await self.classifier.classify(data, top_k)
        return {"predictions": [asdict(one) for one in answer.predictions]}

    async def check_ready(self) -> None:
        """Raise NotReady where the runner does not answer; a worker that answers is well."""
        if not EMBEDDED:
            # Its own probe, not one of its methods: those wait for a running batch.
            probe = self.runner.is_ready
            await from_runner(probe, timeout_s=PROBE_TIMEOUT_S, refusal=ServiceUnavailable)

    async def model_card(self) -> dict[str, Any]:
        """What is loaded, as `GET /model` shows it."""
        loaded = self.runner.loaded() if EMBEDDED else await self._runner_card()
        return model_card(LOCK, self._artifact, loaded, SETTINGS.topology)

    async def _runner_card(self) -> dict[str, Any]:
        loaded = self.runner.to_async.loaded
        return await from_runner(loaded, timeout_s=PROBE_TIMEOUT_S, refusal=ServiceUnavailable)

    def openapi(self) -> dict[str, Any]:
        """The document behind Swagger UI."""
        return openapi_document(LOCK.tag, self._labels, SETTINGS.default_top_k)

    @property
    def model_reference(self) -> dict[str, str]:
        """What every answer says of the model."""
        return {"tag": LOCK.tag, "digest": LOCK.manifest_sha256}


def _decode_limits() -> DecodeLimits:
    given = SETTINGS.model_dump(include=set(DecodeLimits.model_fields))
    return DecodeLimits(max_bytes=SETTINGS.max_body_bytes, **given)
