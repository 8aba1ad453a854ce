"""The page's files, and the JSON behind it."""

import gzip
import hashlib
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.record import Plan
from image_classifier.http.schemas import ERRORS
from image_classifier.http.ui import FILES
from image_classifier.inference.batcher import Answer
from image_classifier.inference.runner import RunnerDescription
from preprocessing import SpecPreprocessing
from tests.artifact.builder import SLO, contents, write_artifact
from tests.http.fakes import StubClassifier, app_of, send
from tests.preprocessing.files import encoded, imagenet

PLAN = Plan(
    engine="openvino-fp32", streams=1, threads=2, batch_sizes=(1, 4), service_time_ms=4.12345
)
SAFETENSORS_HEADER = json.dumps(
    {"__metadata__": {}, "fc.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
).encode()


class FakeClassifier(StubClassifier):
    """A classifier that answers `logits`, with the calls that the page uses."""

    def __init__(self) -> None:
        super().__init__(self._answer)

        async def describe() -> RunnerDescription:
            return RunnerDescription(PLAN, "NVIDIA L4", [("load", 0.0, 2.5)])

        self.runner = SimpleNamespace(describe=describe, executor=None)
        self.preprocessing = SpecPreprocessing(imagenet())
        self.logits = np.array([1, 2], np.float32)

    async def _answer(self) -> Answer:
        return Answer(logits=self.logits, queue_ms=0, infer_ms=0, batch_size=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = contents()
    header = SAFETENSORS_HEADER
    files["weights.safetensors"] = len(header).to_bytes(8, "little") + header + bytes(24)
    write_artifact(tmp_path / "artifact", files)
    return tmp_path / "artifact"


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier()


@pytest.fixture
def app(root: Path, classifier: FakeClassifier) -> FastAPI:
    app = app_of(classifier)
    app.state.artifact = open_artifact(root)
    return app


def page_sources() -> dict[str, str]:
    kinds = (".js", ".css", ".html")
    return {path.name: path.read_text() for path in FILES.iterdir() if path.suffix in kinds}


def test_the_page_forbids_inline_code_other_servers_and_frames(app: FastAPI) -> None:
    answer = send(app, "GET", "/ui/")

    policy = answer.headers["content-security-policy"]
    assert answer.headers.keys().isdisjoint({"etag", "last-modified"})  # equal in all bentos
    ranges = send(app, "GET", "/ui/", headers={"Range": "bytes=x"})
    assert (ranges.status_code, ranges.text) == (200, answer.text)
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<style|style=|<script>|\son\w+=", answer.text)


def test_every_url_of_the_page_is_relative_and_exists_unless_the_page_is_disabled(
    app: FastAPI,
) -> None:
    names = set(re.findall(r'(?:src|href)="([^"#]+)"', send(app, "GET", "/ui/").text)) - {"../"}
    for name, text in page_sources().items():
        names |= {path.removeprefix("./") for path in re.findall(r'from "(\./[^"]+)"', text)}
        assert not re.search(r"(?:https?:)?//(?!www\.w3\.org)\w[\w.-]*\.\w", text), name
        assert not re.search(r"""["'`]/(?!/)\w""", text), name

    assert {send(app, "GET", f"/ui/{name}").status_code for name in names} == {200}
    assert send(app, "GET", "/ui").headers["location"] == "ui/"
    without = app_of(StubClassifier(), ui=False)
    assert send(without, "GET", "/ui/").status_code == 404


def test_only_files_of_the_page_and_of_the_artifact_are_served(app: FastAPI) -> None:
    for name in ("../http/ui.py", "%2e%2e/errors.py", "vendor", "x"):
        answer = send(app, "GET", f"/ui/{name}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    for question in ("golden/2", "golden/-1", "golden/x", f"golden/{'1' * 5_000}"):
        assert send(app, "GET", f"/ui/api/{question}").status_code == 404
    assert send(app, "POST", "/ui/api/selfcheck/2").status_code == 404
    golden = send(app, "GET", "/ui/api/golden/1")
    assert golden.content == b"second picture"
    # Browsers do not render it as a page.
    assert golden.headers["content-type"] == "application/octet-stream"
    assert golden.headers["x-content-type-options"] == "nosniff"


def test_all_vendored_files_are_listed_and_the_page_is_small() -> None:
    vendor = FILES / "vendor"
    listed = {
        name: digest
        for part in json.loads((vendor / "vendor.json").read_text())
        for name, digest in part["files"].items()
        if part["licence"] and part["version"] and part["source"]
    }

    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in vendor.iterdir()
        if path.name != "vendor.json"
    }
    compressed = sum(len(gzip.compress(p.read_bytes())) for p in FILES.rglob("*") if p.is_file())

    assert found == listed
    assert compressed < 150_000


def test_every_text_exists_in_both_languages() -> None:
    sources = page_sources()
    table = re.findall(r'^  (\w+): \["(.+)", "(.+)"\],$', sources["i18n.js"], re.MULTILINE)
    known = {key for key, _, _ in table}
    used = set(re.findall(r'data-t(?:-label)?="(\w+)"', sources["index.html"]))
    for name in sources.keys() - {"i18n.js"}:
        used |= set(re.findall(r'(?:\bt: \[?|\btext\()"(\w+)"', sources[name]))

    assert used <= known
    for key, english, french in table:
        assert set(re.findall(r"\{\w+\}", english)) == set(re.findall(r"\{\w+\}", french)), key
    assert {f"error_{code}" for code in ERRORS} <= known


def test_the_inspection_has_weights_refused_engines_and_unproven_claims(
    app: FastAPI,
) -> None:
    inspection = send(app, "GET", "/ui/api/inspection").json()

    assert inspection["tensors"] == [{"name": "fc.weight", "dtype": "F32", "shape": [2, 3]}]
    serving, refused = inspection["engines"]
    assert (serving["serves"], serving["certificate"]["tolerance"]) == (True, 0.001)
    assert (refused["serves"], refused["certificate"]) == (False, None)
    assert refused["attempt"]["reason"] == "too far off"
    assert inspection["signature"] == "none"
    pinned = {file["name"]: file["pinned_by"] for file in inspection["files"]}
    assert pinned["weights.safetensors"] == "manifest"
    assert pinned["manifest.json"] == pinned["evidence.json"] == "model.lock"
    assert pinned["golden/logits.npy"] == "evidence"
    assert pinned["record.json"] == "nothing"
    proof = {claim["code"]: (claim["proven"], claim["values"]) for claim in inspection["proof"]}
    # One of two samples is labelled; the reference's accuracy of 0.5 rounds to 0 of 1.
    assert proof["labelled"] == (True, {"right": 0, "images": 1})
    assert proof["engine_equal"][1]["tolerance"] == 0.001
    assert {code for code, (proven, _) in proof.items() if not proven} == {
        *("no_notebook", "signature_none", "other_machine", "no_rate"),
    }
    assert any("class Own" in source["text"] for source in inspection["sources"])
    # The GPU of the process that runs the network; the import had none.
    assert inspection["environment"]["machine"]["accelerator"] == "NVIDIA L4"


def test_the_model_card_has_the_plan_and_the_certified_rate(app: FastAPI, root: Path) -> None:
    (root / "slo.json").write_bytes(SLO.to_json())
    app.state.artifact = open_artifact(root)

    card = send(app, "GET", "/model").json()

    assert (card["slo"]["highest_rate_per_s"], card["slo"]["machine"]["cpu"]) == (100, "one")
    assert (card["engine"]["name"], card["engine"]["batch_sizes"]) == ("openvino-fp32", [1, 4])
    assert card["engine"]["service_time_ms"] == 4.123


def test_the_self_check_compares_served_with_reference_logits(
    app: FastAPI, classifier: FakeClassifier
) -> None:
    same = send(app, "POST", "/ui/api/selfcheck/0").json()
    classifier.logits = np.array([1, 2.0 + 0.0021], np.float32)  # allowed: 0.001 × max(1, 2)

    off = send(app, "POST", "/ui/api/selfcheck/0").json()

    assert (same["passed"], same["max_logit_difference"], same["expected"]) == (True, 0.0, "bee")
    assert not off["passed"]
    assert off["max_logit_difference"] == pytest.approx(0.0021, rel=1e-3)


def test_the_trace_shows_each_preprocessing_step(app: FastAPI) -> None:
    file = encoded(Image.new("RGB", (512, 300), (255, 0, 51)), "PNG")

    steps = send(app, "POST", "/ui/api/trace", content=file).json()
    broken = send(app, "POST", "/ui/api/trace", content=b"\x89PNG\r\n\x1a\n broken")

    # The shorter side to 256: 300 -> 256, 512 -> 436 (truncated); then the centre, 224 x 224.
    assert [(step["name"], step["width"], step["height"]) for step in steps] == [
        ("decode", 512, 300),
        ("resize", 436, 256),
        ("crop", 224, 224),
        ("input", 224, 224),
        ("normalise", 224, 224),
    ]
    assert (steps[3]["minimum"], steps[3]["maximum"]) == (0, 255)
    # Green: (0 - 0.456) / 0.224; red: (1 - 0.485) / 0.229.
    assert (steps[4]["minimum"], steps[4]["maximum"]) == pytest.approx((-2.036, 2.249), abs=1e-3)
    assert (broken.status_code, broken.json()["error"]["code"]) == (422, "undecodable_image")


def test_the_start_has_the_runners_steps_and_log_lines_without_directories(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "classifier")
    logger = logging.getLogger("classifier")
    logger.info("the key is %s, and 3/4 of it", "/home/somebody/keys/model.pub")

    start = send(app, "GET", "/ui/api/start").json()

    assert ["load", 0.0, 2.5, "ModelRunner"] in start["steps"]
    lines = start["lines"]
    assert lines[-1].endswith("INFO the key is …/model.pub, and 3/4 of it")
