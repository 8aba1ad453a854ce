"""The error that stops an import."""

from preprocessing.errors import OperatorError


class ImportRefused(OperatorError):
    """The model was not imported; the store and model.lock are as they were."""
