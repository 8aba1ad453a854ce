"""Takes the pictures of the page for README.md and docs/page.md: `make screenshots`.

It serves the locked model, which should be the digits example, and looks at the real page with
Debian's Chromium. Look at the pictures before you commit them.
"""

import io
import os
import shutil
import sys
from pathlib import Path

from PIL import Image

from tools.load import LOOPBACK
from tools.serving import (
    PRODUCT_COMMAND,
    ROOT,
    expects_ok,
    http_request,
    running,
    server_environment,
)

SAMPLES = ROOT / "examples" / "digits" / "samples"
DOCS = ROOT / "docs"


def main() -> int:
    """Write docs/page.png and docs/page-inspector.png."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        sys.stderr.write("chromium is not installed: apt-get install chromium\n")
        return 1
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    served = running(
        "the service",
        PRODUCT_COMMAND,
        environment=server_environment({}),
        log_path=ROOT / "build" / "screenshots.log",
        probe=expects_ok(http_request("/readyz", {}, b"", method="GET")),
    )
    with served as server, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=sandbox)
        page = browser.new_page(viewport={"width": 1180, "height": 820}, locale="en-GB")
        page.goto(f"http://{LOOPBACK}:{server.port}/ui/")
        page.set_input_files("#file", SAMPLES / "2-01.jpg")
        page.wait_for_selector(".bars li")
        page.click("article button")
        page.wait_for_selector(".traced img")
        page.locator("article").scroll_into_view_if_needed()
        _save(page.screenshot(), DOCS / "page.png")
        page.click("nav a[href='#inspector']")
        page.wait_for_selector("#inspector-curves canvas")
        _save(page.screenshot(), DOCS / "page-inspector.png")
        browser.close()
    return 0


def _save(picture: bytes, path: Path) -> None:
    """Save with 128 colours, which take half the bytes."""
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
