"""docs/deploy.md shows the stored trial of the image."""

import json

from release.image_report import with_tables
from tests.imports import ROOT

RESULTS = ROOT / "deploy" / "results" / "image.json"
DOCUMENT = ROOT / "docs" / "deploy.md"


def test_the_document_shows_the_stored_trial() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")

    assert with_tables(text, RESULTS) == text


def test_the_stored_image_is_below_its_limit_and_its_code_above_its_weights() -> None:
    record = json.loads(RESULTS.read_bytes())
    steps = [layer["step"] for layer in record["layers"]]

    assert record["megabytes_beside_the_model"] < 450
    assert steps.index("base") < steps.index("packages") < steps.index("model")
    assert steps[-1] == "code"
    total = sum(layer["bytes"] for layer in record["layers"])
    assert abs(total / 1e6 - record["megabytes"]) < 0.1
