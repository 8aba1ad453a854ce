"""What the service answers: the table of errors, and the description of the model."""

from http import HTTPStatus
from typing import Any, NamedTuple

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.evidence import Evidence
from image_classifier.artifact.record import Plan
from image_classifier.artifact.store import ModelLock

INTERNAL_ERROR = "internal_error"


class ErrorRow(NamedTuple):
    """How one code is answered and documented."""

    status: HTTPStatus
    meaning: str


ERRORS = {
    "malformed_request": ErrorRow(
        HTTPStatus.BAD_REQUEST, "The request is not of the documented form."
    ),
    "not_found": ErrorRow(HTTPStatus.NOT_FOUND, "No such path."),
    "method_not_allowed": ErrorRow(
        HTTPStatus.METHOD_NOT_ALLOWED, "The path exists, the method does not."
    ),
    "body_too_slow": ErrorRow(HTTPStatus.REQUEST_TIMEOUT, "The body did not come in time."),
    "body_too_large": ErrorRow(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "More bytes than the service takes."
    ),
    "image_too_large": ErrorRow(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "More pixels than the service decodes, in the file or after the resize.",
    ),
    "unsupported_media_type": ErrorRow(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Not a kind of file the service reads."
    ),
    "undecodable_image": ErrorRow(
        HTTPStatus.UNPROCESSABLE_ENTITY, "The file is not one complete image."
    ),
    "overloaded": ErrorRow(
        HTTPStatus.TOO_MANY_REQUESTS,
        "The queue or the memory for bodies is full, or the estimated wait too long.",
    ),
    "not_ready": ErrorRow(
        HTTPStatus.SERVICE_UNAVAILABLE, "The model cannot be reached; another try may succeed."
    ),
    "deadline_exceeded": ErrorRow(HTTPStatus.GATEWAY_TIMEOUT, "No answer within the time limit."),
    INTERNAL_ERROR: ErrorRow(
        HTTPStatus.INTERNAL_SERVER_ERROR, "A bug of the service; its log says more."
    ),
}


def engine_card(evidence: Evidence, plan: Plan) -> dict[str, Any]:
    """The engine that runs, its certificate, and the plan it runs by."""
    entry = evidence.engine(plan.engine)
    return {
        "name": entry.name,
        "precision": entry.precision,
        "certificate": entry.certificate.model_dump(mode="json"),
        "streams": plan.streams,
        "threads": plan.threads,
        "batch_sizes": list(plan.batch_sizes),
        "single_stream": plan.single_stream,
        "service_time_ms": round(plan.service_time_ms, 3),
    }


def model_card(
    lock: ModelLock, artifact: Artifact, engine: dict[str, Any], topology: str
) -> dict[str, Any]:
    """The whole card; `engine` as made by `engine_card` in the process that runs it."""
    return {
        "model": {"tag": lock.tag, "digest": lock.manifest_sha256},
        **artifact.describe(),
        "engine": engine,
        "topology": topology,
        "slo": None if artifact.slo is None else artifact.slo.model_dump(mode="json"),
    }
