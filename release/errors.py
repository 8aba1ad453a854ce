"""The operator's error for anything wrong with a release."""

from preprocessing.errors import OperatorError


class ReleaseError(OperatorError):
    """A bento, a lock, a signature or an image is not what it claims to be."""
