"""Why a request was refused.

    ClientError (preprocessing.errors)
    ├── MalformedRequest      malformed_request       not in the documented form
    ├── NotFound              not_found               no such path
    ├── BodyTooSlow           body_too_slow           the headers or body did not arrive in time
    ├── HeadersTooLarge       headers_too_large       request line and headers are too long
    ├── TemporaryError        a retry may succeed
    │   ├── Overloaded        overloaded              the queue or the memory is full
    │   └── NotReady          not_ready               the model cannot be reached
    └── DeadlineExceeded      deadline_exceeded       no answer within the time limit

A body that is too large or of an unknown type raises `FileTooLarge` or `UnsupportedImage` of
`preprocessing.errors`, as a file does.

`http/schemas.py` has the HTTP status of each code. Any other exception that escapes an
endpoint is a bug: the client sees 500 internal_error and the log has the traceback.
"""

from preprocessing.errors import ClientError


class MalformedRequest(ClientError):
    """The request is not in the documented form."""

    code = "malformed_request"


class NotFound(ClientError):
    """No such path."""

    code = "not_found"


class BodyTooSlow(ClientError):
    """The headers or the body did not arrive in time."""

    code = "body_too_slow"


class HeadersTooLarge(ClientError):
    """The request line and headers have too many bytes."""

    code = "headers_too_large"


class TemporaryError(ClientError):
    """A retry may succeed.

    Attributes:
        retry_after_s: Seconds for the `Retry-After` header.
    """

    retry_after_s: int = 1


class Overloaded(TemporaryError):
    """The queue or the memory for bodies is full, or the estimated wait is too long.

    Attributes:
        numbers: The limit, its setting and the load, for the log.
    """

    code = "overloaded"
    numbers: str = ""


class NotReady(TemporaryError):
    """The model cannot be reached."""

    code = "not_ready"


class DeadlineExceeded(ClientError):
    """No answer within the time limit."""

    code = "deadline_exceeded"
