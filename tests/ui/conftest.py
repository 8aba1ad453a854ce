"""Debian's Chromium, for tests of the page."""

import os
import shutil
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")  # Playwright blocks event loops of other tests meanwhile
def chromium() -> Iterator[object]:
    """The browser; skips the test where it or Playwright is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Debian's chromium is not installed (apt-get install chromium)")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=sandbox)
        yield browser
        browser.close()
