"""A rule that import-linter cannot check: numbers of a model in serving code."""

import ast

from tests.imports import ROOT

MODEL_NUMBERS = {0.485, 0.456, 0.406, 0.229, 0.225, 224}
"""ImageNet's numbers; they belong in a model's manifest, not in code that serves any model."""


def test_serving_code_has_no_numbers_of_a_model() -> None:
    files = [ROOT / "service.py", *(ROOT / "image_classifier").rglob("*.py")]
    numbers = {
        node.value
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and type(node.value) in (int, float)
    }

    assert not MODEL_NUMBERS & numbers
