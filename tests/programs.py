"""Other programs that tests run to their end."""

import subprocess
from typing import Any

from tests.imports import PATIENCE_S


def run_program(*command: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a program and keep what it prints; its exit status is for the test to judge.

    Args:
        command: The program and its arguments.
        options: As for `subprocess.run`.
    """
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, **options)
