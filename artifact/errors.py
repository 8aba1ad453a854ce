"""The operator's error for anything wrong with an artifact."""

from errors import OperatorError


class ArtifactError(OperatorError):
    """An artifact, or what one is made from, is missing, damaged or not what it claims to be."""
