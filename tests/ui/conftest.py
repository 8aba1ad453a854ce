"""A server with the digits model, and Debian's Chromium to look at its page."""

import os
import shutil
from collections.abc import Iterator

import httpx
import pytest

from tests.service.places import Place
from tests.service.server import Server


@pytest.fixture(scope="session")
def served(imported: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server; it stops while a live view is open, whose stream must end cleanly."""
    with Server(imported.with_own_store(tmp_path_factory.mktemp("page"))) as server:
        yield server.url
        with httpx.stream("GET", f"{server.url}/ui/api/live", timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert server.stop() == 0, server.log
            for _ in lines:
                pass


@pytest.fixture(scope="module")  # no longer: meanwhile no other test can use an event loop
def chromium() -> Iterator[object]:
    """The browser; a test that needs it is skipped where it or Playwright is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Debian's chromium is not installed (apt-get install chromium)")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=sandbox)
        yield browser
        browser.close()
