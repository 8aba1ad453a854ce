"""The page at /ui/: its files, and the JSON it shows of the running process."""

import asyncio
import base64
import hashlib
import io
import json
import logging
import platform
import re
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from PIL import Image
from prometheus_client.metrics_core import Metric
from pydantic import BaseModel, Field

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.evidence import Certificate
from image_classifier.artifact.format import LABELS_NAME, SIGNATURE_NAME, sha256_file
from image_classifier.artifact.manifest import InputSpec
from image_classifier.artifact.record import EngineAttempt, Machine, Plan
from image_classifier.artifact.store import ModelLock
from image_classifier.errors import NotFound, Overloaded
from image_classifier.http.metrics import RequestMetrics
from image_classifier.http.protocol import ClassifierProtocol
from image_classifier.http.uploads import BodyBudget, read_upload
from image_classifier.inference.certificate import GoldenAnswers, certify
from image_classifier.inference.machine import this_machine
from image_classifier.inference.predictions import answered_classes
from image_classifier.inference.startup import START_STEPS, gates_of
from image_classifier.settings import Settings
from preprocessing.trace import Step, trace

FILES = Path(__file__).resolve().parents[1] / "ui"
PROGRAM = FILES.parents[1]
"""The folder of service.py: a checkout, or `src` of a bento."""
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
SHOWN_SIDE = 480
"""Pixels of the longer side of the pictures of steps; larger images are reduced to it."""
SHOWN_SOURCE_BYTES = 200_000
PACKAGES = (
    *("bentoml", "fastapi", "uvicorn", "httptools", "pydantic", "numpy", "pillow"),
    *("openvino", "onnxruntime", "torch"),
)
SAMPLE_EVERY_S = 1.0
SAMPLES_KEPT = 120
VIEWERS = 32
"""Live views of one process at a time."""


Values = dict[str, str | int | float]


class ArtifactFile(BaseModel):
    """One file of the artifact, and which digest pins it."""

    name: str
    size_bytes: int
    sha256: str | None
    pinned_by: Literal["manifest", "evidence", "model.lock", "nothing"]


class Tensor(BaseModel):
    """One tensor of the weights, as the header of their file says."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Source(BaseModel):
    """One text file of the artifact."""

    name: str
    text: str


class GoldenCard(BaseModel):
    """One golden sample; its file is at `ui/api/golden/{index}`."""

    name: str
    label: str | None
    input_sha256: str


class EngineState(BaseModel):
    """One engine: what became of it at import, its certificate if any, whether it serves."""

    attempt: EngineAttempt
    certificate: Certificate | None
    serves: bool


class Statement(BaseModel):
    """One sentence about what is proven; the page has the words in each language."""

    code: str
    proven: bool
    values: Values = {}


class Environment(BaseModel):
    """What this process runs on."""

    python: str
    platform: str
    machine: Machine
    packages: dict[str, str]
    packages_at_import: dict[str, str]
    requirements_sha256: str | None = Field(description="Of the lock of the packages.")
    bento: str | None = Field(description="Tag of the bento; None in a checkout.")
    bento_record: str | None = Field(description="Text of bento.yaml, written by the build.")


class Inspection(BaseModel):
    """Everything the inspector shows."""

    tag: str
    manifest_sha256: str
    evidence_sha256: str
    signature: Literal["verified", "present", "none"]
    schema_version: int
    architecture: str | None
    labels: tuple[str, ...]
    files: tuple[ArtifactFile, ...]
    tensors: tuple[Tensor, ...]
    sources: tuple[Source, ...]
    engines: tuple[EngineState, ...]
    plan: Plan
    conformance: dict[str, str]
    golden: tuple[GoldenCard, ...]
    imported: dict[str, Any] | None = Field(description="Time, command and machine of the import.")
    proof: tuple[Statement, ...]
    environment: Environment


class RecomputedDigest(BaseModel):
    """The digest of a file, computed in this process on request."""

    name: str
    expected: str
    actual: str
    equal: bool
    milliseconds: float


class StepCard(BaseModel):
    """One step of the preprocessing; `picture` is a PNG in base64."""

    name: str
    width: int
    height: int
    mode: str
    minimum: float
    maximum: float
    milliseconds: float | None
    picture: str


class SelfCheck(BaseModel):
    """A golden sample, classified through the path of requests."""

    name: str
    expected: str
    served: str
    max_logit_difference: float
    allowed: float | None = Field(description="Factor of max(1, |logit|); None: the labels decide.")
    passed: bool
    milliseconds: float


class StartCard(BaseModel):
    """The start of the process that answers."""

    process: int
    began_at: float = Field(description="Unix seconds.")
    uptime_s: float
    steps: tuple[tuple[str, float, float], ...] = Field(
        description="Name, seconds from the begin of the process, duration in seconds."
    )
    lines: tuple[str, ...] = Field(description="Last lines of the service's log.")
    runner_elsewhere: bool


class Sample(BaseModel):
    """One second of all processes together; None where nothing was measured in it."""

    at: float
    rate: float
    refused: float
    errors: float
    in_flight: float
    p50_ms: float | None
    p99_ms: float | None
    queue_ms: float | None
    batch_size: float | None
    top_probability: float | None
    drift: dict[str, float]


class RecentLines(logging.Handler):
    """Keeps the last lines of the service's log, without tracebacks and folders."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: deque[str] = deque(maxlen=200)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        text = re.sub(r"(?<![\w.])/(?:[^\s/,'\"]+/)+", "…/", record.getMessage())
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        self.lines.append(f"{moment} {record.levelname} {text}")


class Sampler:
    """Reads the metrics once a second while somebody looks, however many do.

    Belongs to one event loop.
    """

    def __init__(self, metrics: RequestMetrics) -> None:
        self.samples: deque[Sample] = deque(maxlen=SAMPLES_KEPT)
        self.viewers = 0
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._sampled = asyncio.Condition()

    async def watch(self) -> AsyncIterator[str]:
        """Yield server-sent events: the samples kept, then each further one."""
        self.viewers += 1
        if self._task is None:
            self.samples.clear()
            self._task = asyncio.get_running_loop().create_task(self._sample())
        try:
            yield "retry: 2000\n\n"
            for sample in tuple(self.samples):
                yield _event(sample)
            while not ClassifierProtocol.stopping:
                async with self._sampled:
                    await self._sampled.wait()
                    newest = self.samples[-1]
                yield _event(newest)
        finally:
            self.viewers -= 1
            if not self.viewers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _sample(self) -> None:
        before = await asyncio.to_thread(_read, self._metrics.collect)
        while True:
            await asyncio.sleep(SAMPLE_EVERY_S)
            try:
                after = await asyncio.to_thread(_read, self._metrics.collect)
            except FileNotFoundError:  # of a process that ended meanwhile
                continue
            async with self._sampled:
                self.samples.append(between(before, after))
                self._sampled.notify_all()
            before = after


class Reading(NamedTuple):
    """The series at one moment, by name and value of their label."""

    at: float
    values: dict[tuple[str, str], float]


def _read(collect: Any) -> Reading:
    metrics: Iterable[Metric] = collect()
    return Reading(
        time.time(),
        {
            (sample.name, ",".join(sorted(sample.labels.values(), key=_bound_last))): sample.value
            for metric in metrics
            for sample in metric.samples
        },
    )


def _bound_last(value: str) -> tuple[bool, str]:
    return value.replace(".", "").replace("+Inf", "0").isdigit(), value


def between(before: Reading, after: Reading) -> Sample:
    """Return what happened between two readings."""
    seconds = max(after.at - before.at, 1e-3)

    def grown(name: str, label: str = "") -> float:
        return after.values.get((name, label), 0.0) - before.values.get((name, label), 0.0)

    def mean(name: str, label: str = "") -> float | None:
        count = grown(f"{name}_count", label)
        return grown(f"{name}_sum", label) / count if count > 0 else None

    outcomes = {
        label: grown(name, label)
        for name, label in after.values
        if name == "classifier_requests_total"
    }
    ok, refused = outcomes.pop("ok", 0.0), outcomes.pop("overloaded", 0.0)
    bounds = sorted(
        (float(label.removeprefix("total,")), grown(name, label))
        for name, label in after.values
        if name == "classifier_stage_seconds_bucket" and label.startswith("total,")
    )
    queue_s = mean("classifier_stage_seconds", "queue")
    return Sample(
        at=after.at,
        rate=ok / seconds,
        refused=refused / seconds,
        errors=sum(outcomes.values()) / seconds,
        in_flight=after.values.get(("classifier_in_flight", ""), 0.0),
        p50_ms=percentile_ms(bounds, 0.50),
        p99_ms=percentile_ms(bounds, 0.99),
        queue_ms=None if queue_s is None else queue_s * 1e3,
        batch_size=mean("classifier_batch_size"),
        top_probability=mean("classifier_top_probability"),
        drift={
            " ".join(filter(None, (name.removeprefix("classifier_drift_"), label))): value
            for (name, label), value in after.values.items()
            if name.startswith("classifier_drift_")
        },
    )


def percentile_ms(bounds: list[tuple[float, float]], share: float) -> float | None:
    """Estimate a percentile from a histogram, evenly spread within a bucket.

    Args:
        bounds: Upper bound in seconds and observations up to it, ascending.
    """
    total = bounds[-1][1] if bounds else 0.0
    if total <= 0:
        return None
    lower, below = 0.0, 0.0
    for upper, count in bounds:
        if count >= share * total:
            if upper == float("inf"):
                break
            return 1e3 * (lower + (upper - lower) * (share * total - below) / (count - below))
        lower, below = upper, count
    return 1e3 * lower


def _event(sample: Sample) -> str:
    return f"data: {sample.model_dump_json()}\n\n"


def page_router(
    settings: Settings, lock: ModelLock, metrics: RequestMetrics, bodies: BodyBudget
) -> APIRouter:
    """Return the routes of the page; `app.state` is as for `create_app`."""
    router = APIRouter(prefix="/ui", include_in_schema=False)
    sampler = Sampler(metrics)
    recent = RecentLines()
    logging.getLogger("classifier").addHandler(recent)
    one_at_a_time = asyncio.Semaphore(1)
    files = {
        path.relative_to(FILES).as_posix(): path
        for path in FILES.rglob("*")
        if path.suffix in MEDIA_TYPES
    }

    @router.get("")
    async def to_the_page() -> Response:
        return RedirectResponse("ui/")  # relative: a proxy may have put a prefix in front

    @router.get("/api/inspection")
    async def inspect(request: Request) -> Inspection:
        state = request.app.state
        plan = await state.classifier.runner.describe()
        return await asyncio.to_thread(_inspect, state.artifact, lock, settings, plan)

    @router.post("/api/digest")
    async def recompute_digest(request: Request, name: str) -> RecomputedDigest:
        artifact: Artifact = request.app.state.artifact
        expected = artifact.pinned_files().get(name)
        if expected is None:
            raise NotFound("no such file has a digest")
        async with one_at_a_time:
            begun = time.perf_counter()
            actual = await asyncio.to_thread(sha256_file, artifact.path_of(name))
        return RecomputedDigest(
            name=name,
            expected=expected,
            actual=actual,
            equal=actual == expected,
            milliseconds=(time.perf_counter() - begun) * 1e3,
        )

    @router.get("/api/golden/{index}")
    async def golden_file(request: Request, index: int) -> Response:
        artifact: Artifact = request.app.state.artifact
        sample = _golden(artifact, index)
        data = await asyncio.to_thread(artifact.path_of(sample.file).read_bytes)
        return Response(data, media_type="application/octet-stream", headers=HEADERS)

    @router.post("/api/trace")
    async def trace_steps(request: Request) -> tuple[StepCard, ...]:
        state = request.app.state
        state.classifier.refuse_if_overloaded()
        with bodies.hold() as reserve:
            upload = await read_upload(request, reserve, bodies.max_bytes)
            async with one_at_a_time:
                steps = await asyncio.to_thread(
                    trace, upload.image, state.classifier.preprocessing, settings.decode_limits
                )
                return await asyncio.to_thread(_cards, steps, state.artifact.manifest.input)

    @router.post("/api/selfcheck/{index}")
    async def check_sample(request: Request, index: int) -> SelfCheck:
        state = request.app.state
        plan = await state.classifier.runner.describe()
        return await _check_sample(state.artifact, state.classifier, plan, index)

    @router.get("/api/start")
    async def describe_start(request: Request) -> StartCard:
        began_at = psutil.Process().create_time()
        return StartCard(
            process=psutil.Process().pid,
            began_at=began_at,
            uptime_s=time.time() - began_at,
            steps=tuple(
                (step.name, step.began_at - began_at, step.seconds) for step in START_STEPS
            ),
            lines=tuple(recent.lines),
            runner_elsewhere=request.app.state.classifier.runner.executor is None,
        )

    @router.get("/api/live")
    async def live() -> Response:
        if sampler.viewers >= VIEWERS:
            raise Overloaded("too many live views are open; close one")
        return StreamingResponse(sampler.watch(), media_type="text/event-stream", headers=HEADERS)

    @router.get("/{name:path}")
    async def page_file(name: str) -> Response:
        path = files.get(name or "index.html")
        if path is None:
            raise NotFound("no such file of the page")
        data = await asyncio.to_thread(path.read_bytes)
        return Response(data, media_type=MEDIA_TYPES[path.suffix], headers=HEADERS)

    return router


def _golden(artifact: Artifact, index: int) -> Any:
    golden = artifact.manifest.golden
    if not 0 <= index < len(golden):
        raise NotFound("no such golden sample")
    return golden[index]


async def _check_sample(artifact: Artifact, classifier: Any, plan: Plan, index: int) -> SelfCheck:
    entry, engine = _golden(artifact, index), artifact.evidence.engine(plan.engine)
    data = await asyncio.to_thread(artifact.path_of(entry.file).read_bytes)
    reference = (await asyncio.to_thread(artifact.reference))[0][index]
    begun = time.perf_counter()
    answer = await classifier.classify(data, 1)
    elapsed_ms = (time.perf_counter() - begun) * 1e3
    outputs = artifact.manifest.outputs
    truth = GoldenAnswers(logits=reference[np.newaxis], class_ids=(None,), outputs=outputs)
    _, failure = certify(answer.logits[np.newaxis], truth, engine.precision, gates_of(engine))
    return SelfCheck(
        name=entry.name,
        expected=_answered_label(reference, artifact),
        served=_answered_label(answer.logits, artifact),
        max_logit_difference=float(np.abs(answer.logits - reference).max()),
        allowed=engine.certificate.tolerance,
        passed=not failure,
        milliseconds=elapsed_ms,
    )


def _answered_label(logits: npt.NDArray[np.float32], artifact: Artifact) -> str:
    labels = artifact.labels()
    (answered,) = answered_classes(logits[np.newaxis], artifact.manifest.outputs)
    return labels[answered if len(labels) > 1 else 0]


def _cards(steps: Iterable[Step], input_spec: InputSpec) -> tuple[StepCard, ...]:
    """Describe each step; the last is what the network computes with, rescaled to be seen."""
    cards = []
    for step in steps:
        pixels = np.asarray(step.picture) if step.array is None else step.array
        cards.append(_card(step.name, pixels, step.picture, step.mode, step.milliseconds))
    if step.array is not None and input_spec.mean is not None and input_spec.std is not None:
        mean, std = np.array(input_spec.mean), np.array(input_spec.std)
        values = (step.array / 255 - mean) / std
        cards.append(_card("normalise", values, None, "float32", None))
    return tuple(cards)


def _card(
    name: str,
    values: npt.NDArray[Any],
    picture: Image.Image | None,
    mode: str,
    milliseconds: float | None,
) -> StepCard:
    low, high = float(values.min()), float(values.max())
    if picture is None:
        scaled = (values.astype(np.float64) - low) / (high - low or 1) * 255
        channels = scaled.shape[2]
        shown = scaled if channels == 3 else scaled[:, :, 0]
        picture = Image.fromarray(shown.astype(np.uint8))
    small = picture.convert("RGBA" if "A" in picture.mode or mode == "P" else "RGB")
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    file = io.BytesIO()
    small.save(file, "PNG")
    return StepCard(
        name=name,
        width=values.shape[1],
        height=values.shape[0],
        mode=mode,
        minimum=low,
        maximum=high,
        milliseconds=milliseconds,
        picture=base64.b64encode(file.getvalue()).decode(),
    )


def _inspect(artifact: Artifact, lock: ModelLock, settings: Settings, plan: Plan) -> Inspection:
    manifest, evidence, record = artifact.manifest, artifact.evidence, artifact.record
    labels = artifact.labels()
    signature: Literal["verified", "present", "none"] = "none"
    if settings.public_key is not None:
        signature = "verified"
    elif artifact.path_of(SIGNATURE_NAME).is_file():
        signature = "present"
    certificates = {entry.name: entry.certificate for entry in evidence.engines}
    attempts = record.attempts if record else ()
    known = {attempt.engine for attempt in attempts}
    attempts += tuple(
        EngineAttempt(engine=name, verdict="passed") for name in certificates if name not in known
    )
    here = this_machine(record.machine.accelerator if record else None)
    return Inspection(
        tag=lock.tag,
        manifest_sha256=artifact.digest,
        evidence_sha256=artifact.evidence_digest,
        signature=signature,
        schema_version=manifest.schema_version,
        architecture=None if manifest.architecture is None else str(manifest.architecture),
        labels=labels,
        files=tuple(_files(artifact)),
        tensors=tuple(_tensors(artifact)),
        sources=tuple(_sources(artifact)),
        engines=tuple(
            EngineState(
                attempt=attempt,
                certificate=certificates.get(attempt.engine),
                serves=attempt.engine == plan.engine,
            )
            for attempt in attempts
        ),
        plan=plan,
        conformance=manifest.conformance,
        golden=tuple(
            GoldenCard(
                name=entry.name,
                label=None if entry.class_id is None else labels[entry.class_id],
                input_sha256=entry.input_sha256,
            )
            for entry in manifest.golden
        ),
        imported=record.model_dump(mode="json", exclude={"attempts", "plan"}) if record else None,
        proof=tuple(statements(artifact, plan, signature, here)),
        environment=_environment(here, evidence.versions),
    )


def _files(artifact: Artifact) -> Iterable[ArtifactFile]:
    pinned = artifact.pinned_files()
    for path in sorted(artifact.root.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(artifact.root).as_posix()
        pinned_by: Literal["manifest", "evidence", "model.lock", "nothing"] = "nothing"
        if name in artifact.manifest.files:
            pinned_by = "manifest"
        elif pinned.get(name) in (artifact.digest, artifact.evidence_digest):
            pinned_by = "model.lock"
        elif name in pinned:
            pinned_by = "evidence"
        yield ArtifactFile(
            name=name,
            size_bytes=path.stat().st_size,
            sha256=pinned.get(name),
            pinned_by=pinned_by,
        )


def _tensors(artifact: Artifact) -> Iterable[Tensor]:
    for name in artifact.manifest.files:
        if name.endswith(".safetensors"):
            with artifact.path_of(name).open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
            for tensor, entry in header.items():
                if tensor != "__metadata__":
                    yield Tensor(name=tensor, dtype=entry["dtype"], shape=entry["shape"])


def _sources(artifact: Artifact) -> Iterable[Source]:
    spec = artifact.manifest.preprocessing.model_dump(mode="json", exclude_none=True)
    yield Source(name="preprocessing.json", text=json.dumps(spec, indent=2))
    for name in sorted(artifact.manifest.files):
        path = artifact.path_of(name)
        shown = name.endswith(".py") or (name.endswith(".json") and name != LABELS_NAME)
        if shown and path.stat().st_size <= SHOWN_SOURCE_BYTES:
            yield Source(name=name, text=path.read_text("utf-8", errors="replace"))


def statements(
    artifact: Artifact, plan: Plan, signature: str, here: Machine
) -> Iterable[Statement]:
    """Say what manifest, evidence and record prove of the running engine, and what they do not."""
    manifest, evidence, record = artifact.manifest, artifact.evidence, artifact.record
    entry = evidence.engine(plan.engine)
    certificate = entry.certificate
    labelled = sum(sample.class_id is not None for sample in manifest.golden)
    if labelled and certificate.reference_accuracy is not None:
        right = round(certificate.reference_accuracy * labelled)
        yield Statement(code="labelled", proven=True, values={"right": right, "images": labelled})
    else:
        yield Statement(code="unlabelled", proven=False)
    given = evidence.reference == "given"
    code = "notebook" if given else "no_notebook"
    yield Statement(code=code, proven=given, values={"samples": len(manifest.golden)})
    measured: Values = {
        "engine": entry.name,
        "samples": certificate.samples,
        "difference": certificate.max_logit_difference,
        "agreement": certificate.agreement,
        "required": certificate.required_agreement,
    }
    if certificate.tolerance is None:
        yield Statement(code="engine_agrees", proven=True, values=measured)
    else:
        measured["tolerance"] = certificate.tolerance
        yield Statement(code="engine_equal", proven=True, values=measured)
    if evidence.shrinking is not None:
        shrunk: Values = {"agreement": evidence.shrinking.agreement}
        yield Statement(code="shrinking", proven=True, values=shrunk)
    checked: Values = {"cases": len(manifest.conformance), "samples": len(manifest.golden)}
    yield Statement(code="preprocessing", proven=True, values=checked)
    yield Statement(code=f"signature_{signature}", proven=signature == "verified")
    if record is not None:
        same = record.machine == here
        code = "same_machine" if same else "other_machine"
        yield Statement(code=code, proven=same, values={"cpu": record.machine.cpu})
    if artifact.slo is None:
        yield Statement(code="no_rate", proven=False)
    else:
        rate: Values = {
            "rate": artifact.slo.highest_rate_per_s,
            "budget": artifact.slo.budget_ms,
            "cpu": artifact.slo.machine.cpu,
        }
        yield Statement(code="rate", proven=artifact.slo.machine == here, values=rate)


def _environment(here: Machine, at_import: Mapping[str, str]) -> Environment:
    packages = {}
    for name in dict.fromkeys((*PACKAGES, *at_import)):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:  # torch where it does not serve, and what is no package
            continue
    lock = PROGRAM / "deploy" / "requirements" / "serve-cpu.txt"
    built = PROGRAM.parent / "bento.yaml"
    text = built.read_text("utf-8") if PROGRAM.name == "src" and built.is_file() else None
    fields = dict(re.findall(r"(?m)^(name|version): (\S+)$", text or ""))
    return Environment(
        python=sys.version.partition(" ")[0],
        platform=platform.platform(),
        machine=here,
        packages=packages,
        packages_at_import=dict(at_import),
        requirements_sha256=(
            hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None
        ),
        bento=f"{fields['name']}:{fields['version']}" if len(fields) == 2 else None,
        bento_record=text,
    )
