"""The page on preprocessing says what the stored run and the code say."""

from pathlib import Path

import pytest
import yaml

from benchmarks.preprocessing_report import Result, with_tables
from preprocessing import DecodeLimits, PreprocessingSpec

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "preprocessing.md").read_text()


@pytest.fixture(scope="module")
def result():
    stored = ROOT / "benchmarks" / "results" / "preprocessing.json"
    return Result.model_validate_json(stored.read_text())


def test_the_tables_are_those_of_the_stored_run(result):
    assert with_tables(PAGE, result) == PAGE


def test_the_stored_run_found_no_difference_to_torchvision(result):
    exact = [run for run in result.differences if not run.configuration.startswith("normalised")]

    assert len(exact) > 50
    assert {run.max_difference for run in exact} == {0}
    assert max(run.max_difference for run in result.differences) <= 1e-6


def test_the_stored_run_measured_every_size_against_bare_pillow(result):
    measured = {(run.image, run.whose) for run in result.timings if run.step == "all"}

    assert measured == {
        (size, whose) for size in ("0.2 MP", "2 MP", "12 MP") for whose in ("bare", "ours")
    }


def test_the_spec_of_the_page_is_the_imagenet_spec():
    text = PAGE.split("```yaml\n")[1].split("```")[0]

    assert PreprocessingSpec.model_validate(yaml.safe_load(text)) == PreprocessingSpec.imagenet()


@pytest.mark.parametrize("name", DecodeLimits.model_fields)
def test_every_limit_is_on_the_page_with_its_default(name):
    default = DecodeLimits.model_fields[name].default

    shown = f"{default:,}" if isinstance(default, int) else f"{default:g}"

    assert f"`{name}` ({shown})" in PAGE
