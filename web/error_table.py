"""The HTTP status and the meaning of every error code."""

from http import HTTPStatus
from typing import NamedTuple

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
