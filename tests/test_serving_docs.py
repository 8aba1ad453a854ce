"""docs/serving.md names what the program has."""

from pathlib import Path

from image_classifier.http.schemas import ERRORS
from image_classifier.settings import PREFIX, Settings

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "serving.md").read_text()


def test_every_setting_is_described_with_its_default() -> None:
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else field.default

        assert f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |" in TEXT


def test_the_table_of_errors_is_the_one_of_the_program() -> None:
    for code, row in ERRORS.items():
        retry = "yes, after `Retry-After` seconds" if row.retry else "no"

        assert f"| {int(row.status)} | `{code}` | {row.meaning} | {retry} |" in TEXT
