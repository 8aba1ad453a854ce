"""The operator's error for anything wrong with an artifact, and how it says where."""

from pydantic import ValidationError

from preprocessing.errors import OperatorError


class ArtifactError(OperatorError):
    """An artifact, or what one is made from, is missing, damaged or not what it claims to be."""


def first_problem(error: ValidationError, whole: str = "the file") -> str:
    """Where the first thing wrong is, and what: "engines.0.file: Field required".

    Args:
        whole: Said where the problem is in no field.
    """
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place or whole}: {first['msg']}"
