"""The page on preprocessing says what the code says."""

from pathlib import Path

import pytest
import yaml

from preprocessing import DecodeLimits, PreprocessingSpec

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "preprocessing.md").read_text()


def test_the_spec_of_the_page_is_the_imagenet_spec():
    text = PAGE.split("```yaml\n")[1].split("```")[0]

    assert PreprocessingSpec.model_validate(yaml.safe_load(text)) == PreprocessingSpec.imagenet()


@pytest.mark.parametrize("name", DecodeLimits.model_fields)
def test_every_limit_is_on_the_page_with_its_default(name):
    default = DecodeLimits.model_fields[name].default

    shown = f"{default:,}" if isinstance(default, int) else f"{default:g}"

    assert f"`{name}` ({shown})" in PAGE
