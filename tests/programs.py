"""Runs other programs for tests."""

import subprocess
import sys
from typing import Any

from tests.imports import PATIENCE_S, ROOT


def run_program(*command: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a program and capture its output without checking its exit status.

    `options` are those of `subprocess.run`.
    """
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, **options)


def run_python(
    source: str, *arguments: object, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run Python source in a new process, which reports crashes, in the checkout."""
    command = (sys.executable, "-X", "faulthandler", "-c", source, *arguments)
    return run_program(*command, cwd=ROOT, **options)
