"""What the samples of the digits example are answered, by every way of sending them."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.imports import PATIENCE_S, SAMPLES
from tests.service.places import Place
from tests.service.server import Server

FILES = sorted(SAMPLES.iterdir())
ROUNDS = 10
CONCURRENT = 32


def predictions(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["predictions"]
    return found


def by_form(server: Server, path: Path, top_k: int = 10) -> list[dict[str, Any]]:
    form = {"image": (path.name, path.read_bytes())}
    return predictions(server.client.post("/classify", files=form, data={"top_k": str(top_k)}))


def by_body(
    server: Server, path: Path, method: str = "POST", content_type: str | None = None
) -> list[dict[str, Any]]:
    headers = {} if content_type is None else {"content-type": content_type}
    return predictions(
        server.client.request(
            method, "/classify?top_k=10", content=path.read_bytes(), headers=headers
        )
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_sample_is_read_as_the_digit_its_name_begins_with(embedded: Server, path: Path) -> None:
    # The example's README: all 30 samples are read right.
    first = by_form(embedded, path)[0]

    assert first["label"] == path.name[0]
    assert first["class_id"] == int(path.name[0])
    assert first["probability"] > 0.1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_form_and_raw_body_by_post_and_put_agree_to_the_bit(embedded: Server, path: Path) -> None:
    answers = [
        by_form(embedded, path),
        by_body(embedded, path),
        by_body(embedded, path, "PUT"),
        by_body(embedded, path, "POST", "image/png"),
        by_body(embedded, path, "PUT", "application/octet-stream"),
    ]

    assert all(answer == answers[0] for answer in answers)


def test_an_answer_names_the_model_and_the_request(embedded: Server, imported: Place) -> None:
    response = embedded.client.post(
        "/classify?top_k=3", content=FILES[0].read_bytes(), headers={"X-Request-Id": "my-id.7"}
    )

    answer = response.json()
    lock = json.loads(imported.lock.read_bytes())
    assert set(answer) == {"predictions", "model", "request_id"}
    assert answer["model"] == {"tag": lock["tag"], "digest": lock["manifest_sha256"]}
    assert answer["request_id"] == response.headers["x-request-id"] == "my-id.7"
    assert response.headers["content-type"] == "application/json"
    stages = [stage.partition(";dur=") for stage in response.headers["server-timing"].split(", ")]
    assert [name for name, _, _ in stages] == ["decode", "queue", "infer"]
    assert all(float(milliseconds) >= 0 for _, _, milliseconds in stages)


def test_predictions_are_ranked_and_sum_to_one_over_all_classes(embedded: Server) -> None:
    ranked = by_form(embedded, FILES[0], top_k=10)

    probabilities = [one["probability"] for one in ranked]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)
    assert {one["class_id"] for one in ranked} == set(range(10))
    assert all(one["label"] == str(one["class_id"]) for one in ranked)


@pytest.mark.parametrize(("top_k", "expected"), [(None, 5), (1, 1), (3, 3), (10, 10)])
def test_as_many_predictions_as_asked_for(
    embedded: Server, top_k: int | None, expected: int
) -> None:
    query = "" if top_k is None else f"?top_k={top_k}"

    response = embedded.client.post(f"/classify{query}", content=FILES[0].read_bytes())

    assert len(predictions(response)) == expected


def test_top_k_may_come_in_the_query_of_a_form_as_well(embedded: Server) -> None:
    form = {"image": ("digit", FILES[0].read_bytes())}

    assert len(predictions(embedded.client.post("/classify?top_k=2", files=form))) == 2


def concurrent_answers(server: Server) -> list[tuple[str, list[dict[str, Any]]]]:
    """Every sample `ROUNDS` times, 32 requests at a time, forms and bodies mixed."""
    limits = httpx.Limits(max_connections=CONCURRENT)
    sends = [(path, form) for form in (True, False) for path in FILES] * (ROUNDS // 2)
    with (
        httpx.Client(base_url=server.url, timeout=PATIENCE_S, limits=limits) as client,
        ThreadPoolExecutor(CONCURRENT) as pool,
    ):

        def send(path: Path, form: bool) -> list[dict[str, Any]]:
            data = path.read_bytes()
            upload: Any = {"files": {"image": data}} if form else {"content": data}
            return predictions(client.post("/classify?top_k=10", **upload))

        futures = [(path.name, pool.submit(send, path, form)) for path, form in sends]
        return [(name, future.result()) for name, future in futures]


@pytest.mark.slow
def test_under_concurrency_both_topologies_answer_every_request_as_alone(
    embedded: Server, through_runner: Server
) -> None:
    alone = {path.name: by_body(embedded, path) for path in FILES}
    assert len({json.dumps(answer) for answer in alone.values()}) == len(FILES)  # no two alike

    for server in (embedded, through_runner):
        answers = concurrent_answers(server)

        assert len(answers) == ROUNDS * len(FILES)
        # Another batch size may move a logit by 1e-5, and with it each probability, however
        # small, by 1e-5 of itself; no two samples are that close.
        for name, answer in answers:
            assert_close(answer, alone[name])


def assert_close(answer: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    found = {one["class_id"]: one["probability"] for one in answer}
    wanted = {one["class_id"]: one["probability"] for one in expected}
    assert found == pytest.approx(wanted, rel=1e-3, abs=0)
    assert answer[0]["class_id"] == expected[0]["class_id"]
