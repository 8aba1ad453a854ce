"""Runs other programs for tests."""

import subprocess
from typing import Any

from tests.imports import PATIENCE_S


def run_program(*command: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a program and capture its output without checking its exit status.

    `options` are those of `subprocess.run`.
    """
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, **options)
