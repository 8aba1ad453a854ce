"""The error tree: stable codes for clients, one line for operators."""

import inspect
import re

import pytest

import errors
from errors import ClassifierError, ClientVisibleError, OperatorError

CLIENT_ERRORS = [
    one
    for one in vars(errors).values()
    if inspect.isclass(one)
    and issubclass(one, ClientVisibleError)
    and one is not ClientVisibleError
]


def test_the_codes_are_those_that_clients_were_promised() -> None:
    # Clients match on these; a changed or vanished row breaks them.
    assert {one.code: int(one.status) for one in CLIENT_ERRORS}.items() >= {
        "malformed_request": 400,
        "not_found": 404,
        "method_not_allowed": 405,
        "body_too_slow": 408,
        "body_too_large": 413,
        "image_too_large": 413,
        "unsupported_media_type": 415,
        "undecodable_image": 422,
        "overloaded": 429,
        "not_ready": 503,
        "deadline_exceeded": 504,
    }.items()


def test_codes_are_unique() -> None:
    assert len({one.code for one in CLIENT_ERRORS}) == len(CLIENT_ERRORS)


@pytest.mark.parametrize("error", CLIENT_ERRORS, ids=lambda error: error.code)
def test_a_code_is_the_name_of_its_class(error: type[ClientVisibleError]) -> None:
    assert re.sub(r"(?<!^)(?=[A-Z])", "_", error.__name__).lower() == error.code


@pytest.mark.parametrize("error", CLIENT_ERRORS, ids=lambda error: error.code)
def test_the_tree_in_the_docstring_has_every_error(error: type[ClientVisibleError]) -> None:
    assert re.search(
        rf"── {error.__name__} +{int(error.status)} {error.code} +\w", errors.__doc__ or ""
    )


@pytest.mark.parametrize("error", CLIENT_ERRORS, ids=lambda error: error.code)
def test_only_what_passes_by_itself_tells_when_to_retry(error: type[ClientVisibleError]) -> None:
    assert (error.retry_after_s is not None) is (error.code in {"overloaded", "not_ready"})


def test_clients_and_operators_are_told_apart() -> None:
    assert not issubclass(OperatorError, ClientVisibleError)
    assert issubclass(OperatorError, ClassifierError)
    assert issubclass(ClientVisibleError, ClassifierError)
