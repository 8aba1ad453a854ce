"""Swagger UI, model card, metrics, example clients and the image's health check."""

import json
import os
import re
import shutil
import sys

import pytest

from image_classifier.http.schemas import ERRORS
from tests.imports import ROOT, SAMPLES
from tests.programs import run_program
from tests.service.places import Place
from tests.service.server import Server

SAMPLE = SAMPLES / "7-02.jpg"
CLIENTS = ROOT / "examples" / "clients"


def test_swagger_ui_is_loaded_from_this_server_only(either: Server) -> None:
    page = either.client.get("/")

    resources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert any("swagger-ui-bundle.js" in resource for resource in resources)
    assert all(resource.startswith("./static_content/") for resource in resources)
    for resource in resources:
        assert either.client.get(resource.removeprefix(".")).status_code == 200
    # No tracker: BentoML's own page loads Google Tag Manager.
    assert "http" not in page.text.replace("http-equiv", "")
    assert "url: './docs.json'" in page.text


def test_the_model_card_has_the_loaded_model_and_its_proof(either: Server, imported: Place) -> None:
    card = either.card()

    lock = json.loads(imported.lock.read_bytes())
    evidence = json.loads((imported.artifact / "evidence.json").read_bytes())
    record = json.loads((imported.artifact / "record.json").read_bytes())
    engine = record["plan"]["engine"]
    (entry,) = [each for each in evidence["engines"] if f"{each['kind']}-fp32" == engine]
    assert card["model"] == {"tag": lock["tag"], "digest": lock["manifest_sha256"]}
    assert card["labels"] == [str(digit) for digit in range(10)]
    assert card["golden_samples"] == card["engine"]["certificate"]["samples"] == 30
    assert card["topology"] in ("embedded", "runner")
    assert card["slo"] is None
    assert card["engine"]["name"] == engine
    assert card["engine"]["certificate"] == entry["certificate"]
    assert card["engine"]["certificate"]["max_logit_difference"] < 1e-3
    # No paths of the import or of this machine.
    assert "/" not in json.dumps(card["engine"])


def test_metrics_count_requests_by_outcome_and_time_their_stages(embedded: Server) -> None:
    before = embedded.metrics()
    for _ in range(3):
        answer = embedded.client.post("/classify", content=SAMPLE.read_bytes()).json()
    probability = answer["predictions"][0]["probability"]
    embedded.client.post("/classify", content=b"just text")
    embedded.client.get("/readyz")

    after = embedded.metrics()
    changes = {name: value - before[name] for name, value in after.items()}
    assert changes['classifier_requests_total{outcome="ok"}'] == 3
    assert changes['classifier_requests_total{outcome="unsupported_media_type"}'] == 1
    seconds = {}
    for stage in ("decode", "queue", "infer", "total"):
        assert changes[f'classifier_stage_seconds_count{{stage="{stage}"}}'] == 3
        seconds[stage] = changes[f'classifier_stage_seconds_sum{{stage="{stage}"}}']
    total_s = seconds.pop("total")
    assert 0 < sum(seconds.values()) <= total_s
    assert changes["classifier_batch_size_count"] == 3
    assert changes["classifier_top_probability_count"] == 3
    assert changes["classifier_top_probability_sum"] == pytest.approx(3 * probability)
    assert after["classifier_in_flight"] == 0


def test_series_have_help_and_count_from_zero_and_name_the_model(either: Server) -> None:
    engine, tag = either.card()["engine"]["name"], either.place.tag

    text = either.client.get("/metrics").text

    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    ours = re.findall(r"^# TYPE ((?:classifier|process)_\S+) ", text, re.MULTILINE)
    assert len(ours) == 9
    assert all(helps[name].endswith(".") for name in ours)
    assert 'classifier_requests_total{outcome="internal_error"} 0.0' in text
    assert set(re.findall(r'outcome="(\w+)"', text)) == {"ok", "client_gone", *ERRORS}
    assert f'classifier_model_info{{engine="{engine}",precision="fp32",tag="{tag}"}} 1.0' in text
    # BentoML's series of the API processes would stay 0; those of a runner are true.
    assert 'service_name="ImageClassifier"' not in text


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([sys.executable, "client.py"], id="python"),
        pytest.param([sys.executable, "bentoml_client.py"], id="bentoml"),
        pytest.param(["node", "client.mjs"], id="javascript"),
    ],
)
def test_the_example_clients_print_the_predictions(
    embedded: Server, imported: Place, words: list[str]
) -> None:
    if not shutil.which(words[0]):
        pytest.skip(f"{words[0]} is not installed")

    # A process of its own: the client may warn of what its libraries deprecate.
    done = run_program(*words, SAMPLE, embedded.url, cwd=CLIENTS, env=imported.environment())

    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert first.startswith("7 ")
    assert len(others) == 2


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("client.py", [], "415: the file is not a JPEG, PNG, WebP, GIF or BMP image\n"),
        ("client.py", ["http://127.0.0.1:9"], "http://127.0.0.1:9: [Errno 111] Connection"),
        ("bentoml_client.py", [], '{url}: {{"error":{{"code":"unsupported_media_type","'),
    ],
)
def test_the_example_clients_end_with_the_error_in_one_line(
    embedded: Server, imported: Place, name: str, options: list[str], error: str
) -> None:
    command = [sys.executable, CLIENTS / name, ROOT / "README.md", *(options or [embedded.url])]

    done = run_program(*command, env=imported.environment())

    assert done.returncode == 1
    assert done.stderr.splitlines(keepends=True)[-1].startswith(error.format(url=embedded.url))
    assert "Traceback" not in done.stderr


def test_the_health_check_of_the_image_ignores_proxies(
    embedded: Server,
) -> None:
    text = (ROOT / "deploy" / "Containerfile.j2").read_text()
    _, *words = json.loads(text.partition("HEALTHCHECK")[2].partition("CMD ")[2].splitlines()[0])
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}

    def status(port: int) -> int:
        environment = {**os.environ, **proxies, "BENTOML_PORT": str(port)}
        return run_program(sys.executable, *words, env=environment).returncode

    assert status(embedded.port) == 0
    assert status(9) == 1
