"""Reasons to reject an image, and the base classes of all errors raised on purpose.

    ClientError                 may be shown to a client
    └── ImageRejected
        ├── FileTooLarge        body_too_large          the file has too many bytes
        ├── ImageTooLarge       image_too_large         too many pixels, too much memory or time
        ├── UnsupportedImage    unsupported_media_type  not one of the supported formats
        └── UndecodableImage    undecodable_image       the file is not one complete image
    OperatorError               aborts a start or an import with one line
    └── SpecError               a preprocessing spec or class cannot be used
    PreprocessingBug            a user's class did not do what it declares

A code is stable: clients may match on it. The server maps it to an HTTP status.
"""


class ClientError(Exception):
    """Error that may be shown to a client.

    The message contains no path, no traceback and no library text.

    Attributes:
        code: Stable name of the error.
    """

    code: str


class ImageRejected(ClientError):
    """The file is not accepted as an image."""


class FileTooLarge(ImageRejected):
    """The file has more bytes than `DecodeLimits.max_bytes`."""

    code = "body_too_large"


class ImageTooLarge(ImageRejected):
    """Decoding or resizing the image would exceed a limit on pixels, shape, memory or time."""

    code = "image_too_large"


class UnsupportedImage(ImageRejected):
    """The file is not a JPEG, PNG, WebP, GIF or BMP image."""

    code = "unsupported_media_type"


class UndecodableImage(ImageRejected):
    """The file is not one complete image."""

    code = "undecodable_image"


class OperatorError(Exception):
    """Problem that the operator must fix before the start or the import can continue.

    The message is one line: where, what was found, what was expected, what to do.
    """


class SpecError(OperatorError):
    """A preprocessing spec or class cannot be used."""


class PreprocessingBug(Exception):
    """A preprocessing class failed or broke its declaration. Not the client's fault."""
