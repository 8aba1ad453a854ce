"""Progress messages on standard error."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Progress:
    """Prints each step with its duration."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)

    def note(self, text: str) -> None:
        """Print a note about the step."""
        self._console.print(f"  {text}", style="dim", markup=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show a step while it runs."""
        started = time.perf_counter()
        with self._console.status(title):
            yield
        seconds = time.perf_counter() - started
        self._console.print(f"✓ {title} ({seconds:.1f} s)", markup=False)
