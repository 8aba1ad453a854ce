"""What can go wrong, for the two people who are told: the client and the operator.

    ClassifierError
    ├── ClientVisibleError          answered over HTTP, with a stable code
    │   ├── MalformedRequest        400 malformed_request      not of the documented form
    │   ├── NotFound                404 not_found              no such path
    │   ├── MethodNotAllowed        405 method_not_allowed     the path exists, the method does not
    │   ├── BodyTooSlow             408 body_too_slow          the body did not come in time
    │   ├── BodyTooLarge            413 body_too_large         more bytes than the service takes
    │   ├── ImageTooLarge           413 image_too_large        more pixels than the service decodes
    │   ├── UnsupportedMediaType    415 unsupported_media_type not a kind of file that is read
    │   ├── UndecodableImage        422 undecodable_image      the file is not one complete image
    │   ├── Overloaded              429 overloaded             no place, time or memory; retry later
    │   ├── NotReady                503 not_ready              the model cannot be reached; retry
    │   └── DeadlineExceeded        504 deadline_exceeded      no answer within the time limit
    └── OperatorError               stops the start or the import with one line

Anything else that escapes an endpoint is a bug: the client sees 500 internal_error and
the log has the traceback. Messages of a ClientVisibleError hold no path, no traceback and
no text of a library.
"""

from http import HTTPStatus


class ClassifierError(Exception):
    """Base of all errors this project raises on purpose."""


class ClientVisibleError(ClassifierError):
    """Something the client can be told.

    Attributes:
        status: HTTP status of the answer.
        code: Stable name of the error; clients may match on it.
        retry_after_s: Seconds for the `Retry-After` header; None where retrying is of no use.
    """

    status: HTTPStatus
    code: str
    retry_after_s: int | None = None


class MalformedRequest(ClientVisibleError):
    """The request is not of the documented form."""

    status = HTTPStatus.BAD_REQUEST
    code = "malformed_request"


class NotFound(ClientVisibleError):
    """No such path."""

    status = HTTPStatus.NOT_FOUND
    code = "not_found"


class MethodNotAllowed(ClientVisibleError):
    """The path exists, the method does not."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    code = "method_not_allowed"


class BodyTooSlow(ClientVisibleError):
    """The body did not come in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "body_too_slow"


class BodyTooLarge(ClientVisibleError):
    """More bytes than the service takes."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "body_too_large"


class ImageTooLarge(ClientVisibleError):
    """More pixels than the service decodes, in the file or after the resize."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "image_too_large"


class UnsupportedMediaType(ClientVisibleError):
    """Not a kind of file the service reads."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_media_type"


class UndecodableImage(ClientVisibleError):
    """The file is not one complete image."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "undecodable_image"


class Overloaded(ClientVisibleError):
    """The queue or the memory for bodies is full, or the estimated wait too long."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "overloaded"
    retry_after_s = 1


class NotReady(ClientVisibleError):
    """The model cannot be reached; another try may succeed."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "not_ready"
    retry_after_s = 1


class DeadlineExceeded(ClientVisibleError):
    """No answer within the time limit."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    code = "deadline_exceeded"


class OperatorError(ClassifierError):
    """What the operator has to put right before the start or the import can go on.

    The message is one line: where, what was found, what was expected, what to do.
    """
