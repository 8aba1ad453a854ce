"""What import-linter (pyproject.toml) does not see: the two scripts, and numbers in code."""

import ast

from tests.imports import ROOT

MODEL_NUMBERS = {0.485, 0.456, 0.406, 0.229, 0.225, 224}
"""ImageNet's: they belong to a model's manifest, never to code that serves any model."""


def test_numbers_of_a_model_are_not_in_code_that_serves_models() -> None:
    files = [ROOT / "service.py", *(ROOT / "image_classifier").rglob("*.py")]
    numbers = {
        node.value
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and type(node.value) in (int, float)
    }

    assert not MODEL_NUMBERS & numbers
