"""The messages in docs/troubleshooting.md are messages of this program."""

import ast
import re
from collections.abc import Iterator

from tests.imports import ROOT

SOURCES = ("importer", "image_classifier", "preprocessing", "model_import.py")


def texts_of_the_code() -> Iterator[str]:
    """Yield every string of the code, with … for the expressions of f-strings."""
    for source in SOURCES:
        path = ROOT / source
        for file in sorted(path.rglob("*.py")) or [path]:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                    yield "".join(map(str, parts))


def test_every_message_that_is_explained_exists() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    cells = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    messages = [message for cell in cells for message in re.findall(r"`(.*?)`", cell)]
    code = "\n".join(texts_of_the_code())

    missing = [message for message in messages if message.strip("…") not in code]

    assert len(messages) > 30
    assert missing == []
