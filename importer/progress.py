"""Progress messages on standard error."""

import itertools
import time
from collections.abc import Callable, Iterator
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
    def step(self, title: str) -> Iterator[Callable[[], None]]:
        """Show a step while it runs; yield a function that counts one part of it as done."""
        started, done = time.perf_counter(), itertools.count(1)
        with self._console.status(title) as status:
            yield lambda: status.update(f"{title}: {next(done)} done")
        seconds = time.perf_counter() - started
        self._console.print(f"✓ {title} ({seconds:.1f} s)", markup=False)
