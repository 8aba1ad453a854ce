"""Build a bento reproducibly, verify it, list its parts, make its container image."""

from preprocessing.errors import OperatorError


class ReleaseError(OperatorError):
    """A bento, a requirement lock or an image is not what it should be."""
