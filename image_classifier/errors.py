"""Why a request was refused.

    ClientError (preprocessing.errors)
    ├── MalformedRequest      malformed_request       not of the documented form
    ├── NotFound              not_found               no such path
    ├── MethodNotAllowed      method_not_allowed      the path exists, the method does not
    ├── BodyTooSlow           body_too_slow           the body did not come in time
    ├── BodyTooLarge          body_too_large          more bytes than the service takes
    ├── UnsupportedMediaType  unsupported_media_type  neither a form nor a file
    ├── TemporaryError        another try may succeed
    │   ├── Overloaded        overloaded              no place, time or memory
    │   └── NotReady          not_ready               the model cannot be reached
    └── DeadlineExceeded      deadline_exceeded       no answer within the time limit

The HTTP status of a code is in `http/schemas.py`. Any other exception that escapes an
endpoint is a bug: the client sees 500 internal_error and the log has the traceback.
"""

from preprocessing.errors import ClientError


class MalformedRequest(ClientError):
    """The request is not of the documented form."""

    code = "malformed_request"


class NotFound(ClientError):
    """No such path."""

    code = "not_found"


class MethodNotAllowed(ClientError):
    """The path exists, the method does not."""

    code = "method_not_allowed"


class BodyTooSlow(ClientError):
    """The body did not come in time."""

    code = "body_too_slow"


class BodyTooLarge(ClientError):
    """More bytes than the service takes."""

    code = "body_too_large"


class UnsupportedMediaType(ClientError):
    """Neither a form nor a file."""

    code = "unsupported_media_type"


class TemporaryError(ClientError):
    """Another try may succeed.

    Attributes:
        retry_after_s: Seconds for the `Retry-After` header.
    """

    retry_after_s: int = 1


class Overloaded(TemporaryError):
    """The queue or the memory for bodies is full, or the estimated wait too long.

    Attributes:
        numbers: For the log: the limit with its setting, and the load.
    """

    code = "overloaded"
    numbers: str = ""


class NotReady(TemporaryError):
    """The model cannot be reached."""

    code = "not_ready"


class DeadlineExceeded(ClientError):
    """No answer within the time limit."""

    code = "deadline_exceeded"
