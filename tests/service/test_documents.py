"""What the service says of itself: Swagger UI, OpenAPI, the model, metrics, BentoML's client."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from image_classifier.http.schemas import ERRORS
from tests.imports import PATIENCE_S, SAMPLES
from tests.service.places import Place
from tests.service.server import Server

SAMPLE = SAMPLES / "7-02.jpg"


class Resources(HTMLParser):
    """Collects what a browser fetches for a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_page_shows_swagger_ui_from_this_server_alone(either: Server) -> None:
    page = either.client.get("/")

    resources = Resources(page.text).found
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert any("swagger-ui-bundle.js" in resource for resource in resources)
    assert all(resource.startswith("./static_content/") for resource in resources)
    for resource in resources:
        assert either.client.get(resource.removeprefix(".")).status_code == 200
    # No tracker: BentoML's own page loads Google Tag Manager.
    assert "http" not in page.text.replace("http-equiv", "")
    assert "url: './docs.json'" in page.text


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()


def test_the_document_is_openapi_3(embedded: Server, imported: Place) -> None:
    document = embedded.client.get("/docs.json").json()

    assert re.fullmatch(r"3\.1\.\d", document["openapi"])
    assert document["info"]["title"]
    assert document["info"]["version"] == imported.tag
    for reference in references(document):
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
        assert target["type"] == "object"
    # OpenAPI 3.1.0: responses is required and not empty, each has a description, parameters
    # have name, in and schema, ids are unique, a path begins with a slash.
    for operation in operations(document):
        assert operation["responses"]
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert response["description"]
        for parameter in operation.get("parameters", []):
            assert {"name", "in", "schema"} <= parameter.keys()
    ids = [one["operationId"] for one in operations(document) if "operationId" in one]
    assert len(ids) == len(set(ids))
    assert all(path.startswith("/") for path in document["paths"])
    for schema in document["components"]["schemas"].values():
        assert set(schema.get("required", [])) <= schema["properties"].keys()


def test_the_document_lists_every_code_a_classification_can_be_answered_with(
    embedded: Server,
) -> None:
    document = embedded.client.get("/docs.json").json()

    responses = document["paths"]["/classify"]["post"]["responses"]
    listed = {
        (int(status), code)
        for status, response in responses.items()
        if status != "200"
        for code in response["content"]["application/json"]["examples"]
    }
    assert {(int(row.status), code) for code, row in ERRORS.items()} <= listed
    # The table of issue A and the design, written out.
    assert {
        (400, "malformed_request"),
        (408, "body_too_slow"),
        (413, "body_too_large"),
        (413, "image_too_large"),
        (415, "unsupported_media_type"),
        (422, "undecodable_image"),
        (429, "overloaded"),
        (500, "internal_error"),
        (503, "not_ready"),
        (504, "deadline_exceeded"),
    } <= listed


def test_the_documented_answer_has_the_shape_of_a_real_one(embedded: Server) -> None:
    document = embedded.client.get("/docs.json").json()
    answer = embedded.client.post("/classify", content=SAMPLE.read_bytes()).json()

    operation = document["paths"]["/classify"]["post"]
    example = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert shape(example) == shape({**answer, "predictions": answer["predictions"][:1]})
    assert operation["requestBody"]["content"].keys() >= {
        "multipart/form-data",
        "application/octet-stream",
    }


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


def test_the_card_shows_what_is_loaded_and_its_proof(either: Server, imported: Place) -> None:
    card = either.card()

    lock = json.loads(imported.lock.read_bytes())
    evidence = json.loads((imported.artifact / "evidence.json").read_bytes())
    assert card["model"] == {"tag": lock["tag"], "digest": lock["manifest_sha256"]}
    assert card["labels"] == [str(digit) for digit in range(10)]
    assert card["golden_samples"] == 30
    assert card["topology"] in ("embedded", "runner")
    record = json.loads((imported.artifact / "record.json").read_bytes())
    engine = record["plan"]["engine"]
    (entry,) = [one for one in evidence["engines"] if f"{one['kind']}-fp32" == engine]
    assert card["engine"]["name"] == engine
    assert card["engine"]["certificate"] == entry["certificate"]
    assert card["engine"]["certificate"]["samples"] == 30
    assert card["engine"]["certificate"]["max_logit_difference"] < 1e-3
    # Nothing of the machine it was imported or runs on.
    assert "/" not in json.dumps(card["engine"])


def test_metrics_count_requests_by_outcome_and_time_their_stages(embedded: Server) -> None:
    before = embedded.metrics()
    for _ in range(3):
        answer = embedded.client.post("/classify", content=SAMPLE.read_bytes()).json()
    probability = answer["predictions"][0]["probability"]
    embedded.client.post("/classify", content=b"just text")
    embedded.client.get("/readyz")
    embedded.client.get("/livez")

    after = embedded.metrics()
    changes = {name: value - before.get(name, 0) for name, value in after.items()}
    assert changes['classifier_requests_total{outcome="ok"}'] == 3
    assert changes['classifier_requests_total{outcome="unsupported_media_type"}'] == 1
    for stage in ("decode", "queue", "infer", "total"):
        assert changes[f'classifier_stage_seconds_count{{stage="{stage}"}}'] == 3
    assert changes["classifier_batch_size_count"] == 3
    assert changes["classifier_top_probability_count"] == 3
    assert changes["classifier_top_probability_sum"] == pytest.approx(3 * probability)
    assert after["classifier_in_flight"] == 0
    total = changes['classifier_stage_seconds_sum{stage="total"}']
    parts = [
        changes[f'classifier_stage_seconds_sum{{stage="{stage}"}}']
        for stage in ("decode", "queue", "infer")
    ]
    assert 0 < sum(parts) <= total


@pytest.mark.parametrize("folder", ["", "/static_content", "/assets", "/classify", "/metrics"])
def test_what_a_client_asks_for_makes_no_series(embedded: Server, folder: str) -> None:
    embedded.client.get("/nope")
    embedded.client.delete("/livez")
    embedded.metrics()
    before = embedded.metrics().keys()

    for number in range(50):
        embedded.client.get(f"{folder}/client-{number}")
    embedded.client.request(f"CLIENT{folder[:1].strip('/')}", "/livez")

    after = embedded.metrics().keys()
    assert before == after
    assert not any("client-" in name or "CLIENT" in name for name in after)


@pytest.mark.parametrize(("top_k", "expected"), [(3, 3), (None, 5)])
def test_bentomls_own_client_classifies_a_file(
    either: Server, imported: Place, top_k: int | None, expected: int
) -> None:
    code = (
        "import bentoml, json, pathlib, sys\n"
        "with bentoml.SyncHTTPClient(sys.argv[1]) as client:\n"
        f"    print(json.dumps(client.classify(image=pathlib.Path(sys.argv[2]), top_k={top_k})))"
    )
    # A process of its own: the client warns of what its libraries deprecate.
    done = subprocess.run(
        [sys.executable, "-c", code, either.url, str(SAMPLE)],
        env=imported.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )

    assert done.returncode == 0, done.stderr
    predictions = json.loads(done.stdout)["predictions"]
    assert [one["label"] for one in predictions][:1] == ["7"]
    assert len(predictions) == expected
