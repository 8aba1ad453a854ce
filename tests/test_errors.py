"""The error trees: stable codes for clients, one line for operators."""

import re
from collections.abc import Iterator
from types import ModuleType

import pytest

import image_classifier.errors as errors
from image_classifier.http.schemas import ERRORS
from preprocessing import errors as preprocessing_errors
from preprocessing.errors import ClientError, OperatorError


def subclasses(base: type[ClientError]) -> Iterator[type[ClientError]]:
    for error in base.__subclasses__():
        yield error
        yield from subclasses(error)


CLIENT_ERRORS = {
    error.__name__: error for error in subclasses(ClientError) if hasattr(error, "code")
}


def test_the_codes_are_those_that_clients_were_promised() -> None:
    # Clients match on these; a changed or vanished row breaks them.
    assert {code: int(row.status) for code, row in ERRORS.items()} == {
        "malformed_request": 400,
        "not_found": 404,
        "method_not_allowed": 405,
        "body_too_slow": 408,
        "body_too_large": 413,
        "image_too_large": 413,
        "unsupported_media_type": 415,
        "undecodable_image": 422,
        "overloaded": 429,
        "internal_error": 500,
        "not_ready": 503,
        "deadline_exceeded": 504,
    }


def test_every_error_for_clients_has_a_status() -> None:
    assert {error.code for error in CLIENT_ERRORS.values()} == ERRORS.keys() - {"internal_error"}


def test_a_file_and_a_body_share_the_codes_for_size_and_kind() -> None:
    codes = [error.code for error in CLIENT_ERRORS.values() if error.__module__ in OURS]

    assert sorted(code for code in set(codes) if codes.count(code) > 1) == [
        "body_too_large",
        "unsupported_media_type",
    ]


OURS = (errors.__name__, preprocessing_errors.__name__)


@pytest.mark.parametrize("module", [errors, preprocessing_errors], ids=OURS)
def test_the_tree_in_the_docstring_has_every_error(module: ModuleType) -> None:
    for error in CLIENT_ERRORS.values():
        if error.__module__ == module.__name__:
            assert re.search(rf"── {error.__name__} +{error.code} +\w", module.__doc__ or "")


def test_only_what_passes_by_itself_tells_when_to_retry() -> None:
    codes = {error.code for error in CLIENT_ERRORS.values() if hasattr(error, "retry_after_s")}

    assert codes == {"overloaded", "not_ready"}


def test_clients_and_operators_are_told_apart() -> None:
    assert not issubclass(OperatorError, ClientError)
    assert not issubclass(ClientError, OperatorError)
