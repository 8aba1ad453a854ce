"""Error codes, limits and settings match docs/serving.md, on which clients rely."""

from collections.abc import Iterator

import image_classifier.errors  # noqa: F401  # defines subclasses of ClientError
from image_classifier.http.schemas import ERRORS
from image_classifier.settings import PREFIX, Settings
from preprocessing import DecodeLimits
from preprocessing.errors import ClientError
from tests.imports import ROOT

SERVING = (ROOT / "docs" / "serving.md").read_text()


def subclasses(base: type[ClientError]) -> Iterator[type[ClientError]]:
    for error in base.__subclasses__():
        yield error
        yield from subclasses(error)


CLIENT_ERRORS = {
    error.__name__: error for error in subclasses(ClientError) if hasattr(error, "code")
}


def test_every_code_is_that_of_an_exception() -> None:
    assert {error.code for error in CLIENT_ERRORS.values()} == ERRORS.keys() - {
        "internal_error",
        "method_not_allowed",  # raised by FastAPI
    }


def test_only_temporary_errors_tell_when_to_retry() -> None:
    codes = {error.code for error in CLIENT_ERRORS.values() if hasattr(error, "retry_after_s")}

    assert codes == {"overloaded", "not_ready"}


def test_every_decode_limit_is_a_setting_with_the_same_default() -> None:
    limits = DecodeLimits().model_dump(exclude={"max_bytes"})

    assert Settings.from_env({}).model_dump(include=set(limits)) == limits
    assert Settings.from_env({}).max_body_bytes == DecodeLimits().max_bytes == 20_971_520


def test_the_documentation_has_every_setting_and_every_error() -> None:
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else field.default
        assert f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |" in SERVING
    for code, row in ERRORS.items():
        retry = "yes, after `Retry-After` seconds" if row.retry else "no"
        assert f"| {int(row.status)} | `{code}` | {row.meaning} | {retry} |" in SERVING
