"""Why an image was rejected, and the two base classes of every error that is raised on purpose.

    ClientError                 may be told to a client
    └── ImageRejected
        ├── FileTooLarge        body_too_large          more bytes than one file may have
        ├── ImageTooLarge       image_too_large         too many pixels, too much memory or time
        ├── UnsupportedImage    unsupported_media_type  no kind of image file that is read
        └── UndecodableImage    undecodable_image       the file is not one complete image
    OperatorError               stops a start or an import with one line
    └── SpecError               a preprocessing spec or class cannot be used
    PreprocessingBug            a user's class did not do what it declares

A code is stable: clients may match on it. What it means in HTTP is the server's business.
"""


class ClientError(Exception):
    """An error that may be told to a client.

    The message holds no path, no traceback and no text of a library.

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
    """What the operator has to put right before the start or the import can go on.

    The message is one line: where, what was found, what was expected, what to do.
    """


class SpecError(OperatorError):
    """A preprocessing spec or class cannot be used as it is."""


class PreprocessingBug(Exception):
    """A preprocessing class did not do what it declares. Not the client's fault."""
