"""The page in a real browser, on the digits model; tests/http/test_ui.py covers its JSON."""

import hashlib
import json
import os
import re
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.imports import PATIENCE_S, SAMPLES
from tests.programs import run_program
from tests.service.places import NewPlace
from tests.service.server import Server

VIEWS = ("try", "inspector", "selfcheck", "flow", "live")
MARKUP = "<img src=x onerror=alert(1)>"
AXE = ("axe-core", "4.14.1", "29348999450cdf2849a8")
PATIENCE_MS = PATIENCE_S * 1_000

Page = Any
"""Playwright's type; Playwright is not installed everywhere."""
OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(embedded: Server, chromium: Any) -> Iterator[OpenPage]:
    """Open the page; errors in the browser's console fail the test."""
    contexts: list[Any] = []
    errors: list[str] = []

    def open_it(
        view: str = "try",
        prepare: Callable[[Page], None] | None = None,
        url: str = embedded.url,
        **options: Any,
    ) -> Page:
        context = chromium.new_context(**{"locale": "en-GB", **options})
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.extend([line.text] * (line.type == "error")))
        if prepare is not None:
            prepare(page)
        page.goto(f"{url}/ui/#{view}")
        page.wait_for_selector("nav a[aria-current]")
        return page

    yield open_it
    for context in contexts:
        context.close()
    # The browser logs each error answer.
    assert [line for line in errors if "Failed to load resource" not in line] == []


def classify(page: Page, *files: Any) -> None:
    """Upload images and wait for their predictions."""
    page.set_input_files("#file", list(files))
    page.locator(".bars li").first.wait_for()
    page.locator(".bars").nth(len(files) - 1).wait_for()


def first_prediction(page: Page) -> list[str]:
    """Return label and probability of the first bar of the newest image."""
    texts: list[str] = page.locator("article").first.locator(".bars li").first.all_inner_texts()
    return texts[0].split("\n")


def change_json(page: Page, path: str, change: Callable[[Any], None]) -> None:
    """Change the JSON of an answer before the browser receives it."""

    def answer(route: Any) -> None:
        response = route.fetch()
        body = response.json()
        change(body)
        route.fulfill(response=response, json=body)

    page.route(re.compile(path), answer)


def test_an_uploaded_image_shows_predictions_and_stage_times(open_page: OpenPage) -> None:
    page = open_page()

    classify(page, SAMPLES / "7-01.png")

    # README shows 0.9762035 for this file.
    assert first_prediction(page) == ["7", "97.62 %"]
    assert page.locator(".bars li").count() == 5
    assert page.locator(".waterfall .lane").count() == 4


@pytest.mark.all
def test_several_images_golden_samples_and_errors_are_shown(open_page: OpenPage) -> None:
    page = open_page()
    page.fill("#top-k", "3")

    classify(page, SAMPLES / "7-01.png", SAMPLES / "2-01.jpg")
    assert first_prediction(page)[0] == "2"
    assert page.locator(".bars li").count() == 6
    assert "top_k=3" in page.inner_text("#requests")

    page.click("#samples button[title^='5-01.jpg']")
    page.locator(".bars").nth(2).wait_for()
    assert first_prediction(page)[0] == "5"

    notes = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"}
    page.set_input_files("#file", [notes])
    page.wait_for_selector("article .error")
    assert "not a JPEG, PNG, WebP, GIF or BMP" in page.inner_text("article >> nth=0")
    assert "415 unsupported_media_type" in page.inner_text("article >> nth=0")


@pytest.mark.all
def test_the_steps_of_the_preprocessing_are_shown_as_images(open_page: OpenPage) -> None:
    page = open_page()
    classify(page, SAMPLES / "2-01.jpg")  # rotated by EXIF

    page.click("article button")
    page.wait_for_selector(".traced img")

    titles = page.locator(".traced strong").all_inner_texts()
    assert titles == ["Decoded", "Colours", "Turned upright", "Input", "Normalised"]
    assert page.evaluate(
        "Promise.all([...document.querySelectorAll('.traced img')].map(i => i.decode()))"
        ".then(() => true)"
    )


@pytest.mark.all
def test_labels_and_file_names_with_markup_are_text(open_page: OpenPage) -> None:
    def prepare(page: Page) -> None:
        change_json(page, "/model$", lambda body: body["labels"].__setitem__(7, MARKUP))
        change_json(page, "/inspection$", lambda body: body["labels"].__setitem__(7, MARKUP))
        change_json(page, "/classify", lambda body: body["predictions"][0].update(label=MARKUP))
        page.on("dialog", lambda dialog: pytest.fail("a label was executed"))

    page = open_page(prepare=prepare)

    data = (SAMPLES / "7-01.png").read_bytes()
    classify(page, {"name": f"{MARKUP}.png", "mimeType": "image/png", "buffer": data})

    assert first_prediction(page)[0] == MARKUP
    assert MARKUP in page.inner_text("article figcaption")
    page.click("nav a[href='#inspector']")
    assert MARKUP in page.inner_text("#inspector-labels")
    assert page.locator("img[src='x']").count() == 0


@pytest.mark.all
@pytest.mark.parametrize(
    ("outputs", "prediction", "value", "note"),
    [
        (
            {"activation": "sigmoid", "threshold": 0.5},
            {"probability": 0.75},
            "75 %",
            "each label is judged independently",
        ),
        ({"activation": "none", "threshold": None}, {"score": 12.5}, "12.5", "values are logits"),
    ],
)
def test_models_without_softmax_show_their_values_and_a_note(
    open_page: OpenPage, outputs: Any, prediction: Any, value: str, note: str
) -> None:
    def answer(body: Any) -> None:
        body["predictions"] = [{"label": "a", "class_id": 0, **prediction}]

    def prepare(page: Page) -> None:
        change_json(page, "/model$", lambda body: body.update(outputs=outputs))
        change_json(page, "/classify", answer)

    page = open_page(prepare=prepare)

    classify(page, SAMPLES / "7-01.png")

    assert first_prediction(page) == ["a", value]
    assert note in page.inner_text("article")
    lines = page.locator(".bars .threshold").evaluate_all(
        "lines => lines.map(line => line.style.width)"
    )
    assert lines == (["50%"] if outputs["threshold"] else [])


@pytest.mark.all
def test_the_inspector_searches_labels_and_shows_engines_and_digests(open_page: OpenPage) -> None:
    page = open_page("inspector")

    page.fill("#inspector-labels input", "7")
    assert page.locator("#inspector-labels li").all_inner_texts() == ["7 7"]
    assert "serves" in page.inner_text("#inspector-engines")
    assert page.locator("#inspector-curves canvas").count() == 2
    row = page.locator("#inspector-weights tr", has_text="block1.0.weight")
    assert row.inner_text().split("\t") == ["block1.0.weight", "(16, 1, 3, 3)", "F32", "144"]
    assert page.locator("#inspector-sources .token.keyword").count() > 0
    assert "unproven" in page.inner_text("#inspector-proof")
    file = page.locator("#inspector-files tr", has_text=re.compile(r"engines/network\.onnx(?!\.)"))
    assert re.search(r"[0-9a-f]{16}…", file.inner_text())


@pytest.mark.all
def test_the_self_check_runs_every_golden_sample(open_page: OpenPage) -> None:
    page = open_page("selfcheck")

    page.click("#run-selfcheck")
    page.wait_for_selector("#selfcheck-summary.good")

    assert page.inner_text("#selfcheck-summary").startswith("30 of 30 passed")
    assert page.locator("#selfcheck-rows td.good").count() == 30


@pytest.mark.all
def test_the_replay_shows_recordings_and_highlights_artifacts(
    open_page: OpenPage,
) -> None:
    page = open_page("flow")
    page.wait_for_selector(".timeline .lane")

    for _ in range(7):
        page.click("#next-step")

    names = page.locator(".timeline > span:first-child, .timeline > span:nth-child(3n+1)")
    assert {"verify digests", "load, compile", "warm up", "self-check"} <= set(
        names.all_inner_texts()
    )
    text = page.inner_text("#terminal")
    assert "# recorded at import" in text
    assert "$ make bento" in text
    assert "serving: model digits:" in text
    assert page.locator("#flow-steps .done").count() == 6
    assert page.locator("#produced .lit").count() == page.locator("#produced a").count()
    page.click("#produced-weights")
    assert "lit" in page.get_attribute("#inspector-weights", "class")


@pytest.mark.all
def test_a_restart_is_followed_live(open_page: OpenPage, new_place: NewPlace) -> None:
    with Server(new_place()) as server:
        page = open_page("flow", url=server.url)
        page.wait_for_selector(".timeline .lane")
        assert page.inner_text("#terminal").count("serving: model digits:") == 1

        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        for words, times in (("the service starts (", 1), ("serving: model digits:", 2)):
            lines = page.locator("#terminal > div", has_text=words)
            lines.nth(times - 1).wait_for()


@pytest.mark.all
def test_live_plots_move_under_load(open_page: OpenPage, embedded: Server) -> None:
    page = open_page("live")
    page.wait_for_selector("#plots canvas")
    data = (SAMPLES / "7-01.png").read_bytes()

    with httpx.Client(base_url=embedded.url, timeout=PATIENCE_S) as client:
        while page.inner_text("#plots output >> nth=0") in ("0", ""):
            assert client.post("/classify", content=data).status_code == 200

    assert page.locator("#plots canvas").count() == 7
    widths = "all => all.map(box => box.querySelector('canvas').offsetWidth <= box.offsetWidth)"
    assert all(page.eval_on_selector_all("#plots .plot", widths))
    p50_ms, p99_ms = page.inner_text("#plots output >> nth=1").split(" / ")
    assert 0 < float(p50_ms) <= float(p99_ms) < PATIENCE_S * 1e3


@pytest.mark.all
def test_colours_and_language_follow_the_browser_and_the_choice(open_page: OpenPage) -> None:
    page = open_page(color_scheme="dark", locale="fr-FR")
    classify(page, SAMPLES / "7-01.png")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    assert page.inner_text("h2 >> nth=0") == "Classer des images"
    assert first_prediction(page)[1] == "97,62 %"

    page.select_option("#language", "en")
    page.select_option("#theme", "light")
    light = page.evaluate(background)
    assert page.inner_text("h2 >> nth=0") == "Classify images"
    assert "Predictions" in page.inner_text("article")
    assert page.get_attribute("html", "lang") == "en"
    page.reload()

    assert dark != light
    assert page.evaluate(background) == light


@pytest.mark.all
def test_no_view_is_wider_than_a_phone(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 360, "height": 740})
    classify(page, SAMPLES / "7-01.png")

    for view in VIEWS:
        page.click(f"nav a[href='#{view}']")
        page.wait_for_selector(f"#view-{view}:not([hidden])")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, view


@pytest.mark.all
def test_the_page_works_by_keyboard_alone(open_page: OpenPage) -> None:
    page = open_page()
    page.wait_for_selector("#samples button")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.title ?? ''").startswith("0-02.jpg"):
            break
    page.keyboard.press("Enter")
    page.wait_for_selector(".bars li")

    assert first_prediction(page)[0] == "0"


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core from npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm, which fetches axe-core, is not installed")
    folder = tmp_path_factory.mktemp("axe")
    name, version, digest = AXE
    done = run_program(npm, "pack", "--silent", f"{name}@{version}", cwd=folder)
    if done.returncode:
        pytest.skip(f"axe-core cannot be fetched: {done.stderr[-200:]}")
    with tarfile.open(folder / done.stdout.strip()) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        source = file.read()
    assert hashlib.sha256(source).hexdigest().startswith(digest)
    return source.decode()


@pytest.mark.all
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_no_violation(open_page: OpenPage, axe: str, colours: str) -> None:
    page = open_page(color_scheme=colours)
    classify(page, SAMPLES / "7-01.png")
    page.click("article button")
    page.wait_for_selector(".traced img")
    page.evaluate(f"() => {{ {axe} }}")

    found = {}
    for view in VIEWS:
        page.click(f"nav a[href='#{view}']")
        page.wait_for_selector(f"#view-{view}:not([hidden])")
        page.wait_for_timeout(600)  # colours change gradually
        for violation in page.evaluate("axe.run().then(result => result.violations)"):
            nodes = [node["html"][:200] for node in violation["nodes"]]
            found[f"{view}: {violation['id']}"] = nodes

    assert found == {}, json.dumps(found, indent=1)
