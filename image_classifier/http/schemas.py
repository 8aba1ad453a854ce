"""The JSON the service sends, as pydantic models, and the table of error codes."""

import re
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, Field

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.evidence import Certificate
from image_classifier.artifact.manifest import Outputs, PreprocessingEntry
from image_classifier.artifact.record import Plan, SloCertificate
from image_classifier.artifact.store import ModelLock
from image_classifier.inference.predictions import Prediction, Score
from preprocessing import InputSpec


class ErrorRow(NamedTuple):
    """How one error code is answered and documented.

    Attributes:
        meaning: When the code is sent; shown in OpenAPI and docs/serving.md.
        retry: Whether the same request may succeed later; adds a `Retry-After` header.
    """

    status: HTTPStatus
    meaning: str
    retry: bool = False


INTERNAL_ERROR = "internal_error"
ERRORS = {
    "malformed_request": ErrorRow(
        HTTPStatus.BAD_REQUEST,
        "not valid HTTP; a part is missing, repeated or unknown; text where a file belongs; "
        "`top_k` is no number in 1..classes, or two different ones",
    ),
    "not_found": ErrorRow(HTTPStatus.NOT_FOUND, "no such path"),
    "method_not_allowed": ErrorRow(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "the path does not take the method; `Allow` lists those it takes",
    ),
    "body_too_slow": ErrorRow(
        HTTPStatus.REQUEST_TIMEOUT, "the headers or the body were not received within 60 s"
    ),
    "body_too_large": ErrorRow(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "more bytes than `CLASSIFIER_MAX_BODY_BYTES`"
    ),
    "image_too_large": ErrorRow(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "the image exceeds a limit on pixels, aspect ratio, decoding time or memory",
    ),
    "unsupported_media_type": ErrorRow(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "neither a form nor an image file, an encoded body (`Content-Encoding`), or a file "
        "other than JPEG, PNG, WebP, GIF and BMP",
    ),
    "undecodable_image": ErrorRow(
        HTTPStatus.UNPROCESSABLE_ENTITY, "the file is not one complete image"
    ),
    "overloaded": ErrorRow(
        HTTPStatus.TOO_MANY_REQUESTS,
        "the estimated wait is too long, or no memory is left for the body",
        retry=True,
    ),
    "headers_too_large": ErrorRow(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "the request line and headers have more than 64 KiB",
    ),
    "not_ready": ErrorRow(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the service starts or stops, or the model cannot be reached",
        retry=True,
    ),
    "deadline_exceeded": ErrorRow(
        HTTPStatus.GATEWAY_TIMEOUT,
        "no answer within `CLASSIFIER_TIMEOUT_MS` or the client's `X-Request-Timeout-Ms`",
    ),
    INTERNAL_ERROR: ErrorRow(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "a bug; the service log has the request id and the traceback",
    ),
}


class ErrorDetail(BaseModel):
    """What went wrong with one request.

    Attributes:
        code: Stable; match on this.
        message: For people; may change.
        request_id: The `X-Request-Id` header's, or generated for the request.
    """

    code: str
    message: str
    request_id: str


class ErrorAnswer(BaseModel):
    """The body of every error.

    Attributes:
        error: What went wrong.
    """

    error: ErrorDetail


class ModelReference(BaseModel):
    """The model that answered.

    Attributes:
        tag: Its name and version.
        digest: sha256 of its manifest, which covers everything that decides an answer.
    """

    tag: str
    digest: str


class ClassifyAnswer(BaseModel):
    """The predictions for one image.

    Attributes:
        predictions: Best first, with a probability each, or with a score where the model has no
            activation. `answer` of `/model` explains the numbers.
        threshold: Only of models with a threshold: `predictions` has the labels that reach it,
            perhaps none.
        model: The model that answered.
        request_id: The `X-Request-Id` header's, or generated for the request.
    """

    predictions: tuple[Prediction | Score, ...]
    threshold: float | None = Field(default=None, exclude_if=lambda value: value is None)
    model: ModelReference
    request_id: str


class EngineCard(BaseModel):
    """The engine in use, its certificate and its plan.

    Attributes:
        name: Kind and precision, e.g. "openvino-int8".
        precision: Number format of the computation.
        certificate: The proof that its answers are those of the reference.
        streams: Number of batches that run in parallel.
        threads: Threads of all streams together.
        batch_sizes: Compiled batch sizes; other batches are split into these.
        single_stream: Whether a second copy with all threads answers requests that arrive alone.
        service_time_ms: Milliseconds per image at full load.
    """

    name: str
    precision: str
    certificate: Certificate
    streams: int
    threads: int
    batch_sizes: tuple[int, ...]
    single_stream: bool
    service_time_ms: Annotated[float, AfterValidator(lambda value: round(value, 3))]


class ModelCard(BaseModel):
    """The loaded model, with the proof that its answers are those of the trained one.

    Attributes:
        model: Its tag and digest.
        name: The part of the tag before the version.
        labels: In the order of the logits.
        architecture: The network and its arguments; null for a finished graph.
        input: Shape and colour mode of the network's input.
        preprocessing: How a file becomes an input.
        outputs: What the logits mean.
        answer: What an answer contains, in words.
        golden_samples: Number of images the proof is based on.
        reference: "given": logits of the researcher's notebook; "torch": logits of torch at import.
        versions: Version, at import, of each library the numbers depend on.
        engine: The engine in use.
        topology: "embedded": the network runs in the API process; "runner": in one of its own.
        slo: The highest rate measured on a machine; null where it was not measured.
    """

    model: ModelReference
    name: str
    labels: tuple[str, ...]
    architecture: str | None
    input: InputSpec
    preprocessing: PreprocessingEntry
    outputs: Outputs
    answer: str
    golden_samples: int
    reference: str
    versions: dict[str, str]
    engine: EngineCard
    topology: str
    slo: SloCertificate | None

    @classmethod
    def of(cls, lock: ModelLock, artifact: Artifact, plan: Plan, topology: str) -> "ModelCard":
        """Describe a loaded artifact; `plan` comes from the process that runs it."""
        manifest, labels = artifact.manifest, artifact.labels()
        engine = artifact.evidence.engine(plan.engine)
        return cls(
            model=ModelReference(tag=lock.tag, digest=lock.manifest_sha256),
            name=manifest.name,
            labels=labels,
            architecture=None if manifest.architecture is None else str(manifest.architecture),
            input=manifest.input,
            preprocessing=manifest.preprocessing,
            outputs=manifest.outputs,
            answer=manifest.outputs.in_words(manifest.num_classes, labels),
            golden_samples=len(manifest.golden),
            reference=artifact.evidence.reference,
            versions=dict(artifact.evidence.versions),
            engine=EngineCard.model_validate({**dict(plan), **dict(engine), "name": engine.name}),
            topology=topology,
            slo=artifact.slo,
        )


_ATTRIBUTE = re.compile(r"^ {4}(\w+(?:, \w+)*): ((?:.|\n {8})+)", re.MULTILINE)


def describe_fields(document: dict[str, Any]) -> None:
    """Move attribute descriptions from docstrings to the fields of the OpenAPI schemas."""
    for schema in document["components"]["schemas"].values():
        whole, _, attributes = schema.get("description", "").partition("\n\nAttributes:\n")
        for names, text in _ATTRIBUTE.findall(attributes):
            for name in names.split(", "):
                if name in schema["properties"]:
                    schema["properties"][name]["description"] = " ".join(text.split())
        if whole:
            schema["description"] = whole


def error_responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Describe error codes, by default all, for FastAPI's `responses`."""
    described: dict[int | str, dict[str, Any]] = {}
    for code in codes or ERRORS:
        row = ERRORS[code]
        empty = {"model": ErrorAnswer, "description": ""}
        response = described.setdefault(int(row.status), empty)
        sentence = f"`{code}`: {row.meaning}."
        response["description"] = f"{response['description']} {sentence}".strip()
        if row.retry:
            response["headers"] = {
                "Retry-After": {
                    "description": "Seconds to wait before trying again.",
                    "schema": {"type": "integer"},
                }
            }
    return described
