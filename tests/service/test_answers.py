"""What the samples of the digits example are answered, by every way of sending them."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.imports import PATIENCE_S, SAMPLES
from tests.service.answers import assert_close, predictions
from tests.service.places import Place
from tests.service.server import Server

FILES = sorted(SAMPLES.iterdir())
ROUNDS = 10
CONCURRENT = 32


def test_every_sample_is_read_right_and_alike_by_every_way_of_sending_it(embedded: Server) -> None:
    client = embedded.client
    for path in FILES:
        data = path.read_bytes()
        form = client.post("/classify", files={"image": (path.name, data)}, data={"top_k": "10"})
        answer = predictions(form)

        # The example's README: all 30 samples are read right.
        assert (answer[0]["label"], answer[0]["class_id"]) == (path.name[0], int(path.name[0]))
        for method, content_type in [
            ("POST", None),
            ("PUT", None),
            ("POST", "image/png"),
            ("PUT", "application/octet-stream"),
        ]:
            headers = {"content-type": content_type} if content_type else {}
            body = client.request(method, "/classify?top_k=10", content=data, headers=headers)
            assert predictions(body) == answer, (path.name, method, content_type)


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
    response = embedded.client.post("/classify?top_k=10", content=FILES[0].read_bytes())

    ranked = predictions(response)
    probabilities = [one["probability"] for one in ranked]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)
    assert {one["class_id"] for one in ranked} == set(range(10))
    assert all(one["label"] == str(one["class_id"]) for one in ranked)


def test_there_are_as_many_predictions_as_asked_for(embedded: Server) -> None:
    data = FILES[0].read_bytes()
    for query, expected in {"": 5, "?top_k=1": 1, "?top_k=3": 3, "?top_k=10": 10}.items():
        by_body = embedded.client.post(f"/classify{query}", content=data)
        by_form = embedded.client.post(f"/classify{query}", files={"image": ("digit", data)})

        assert len(predictions(by_body)) == len(predictions(by_form)) == expected


def test_under_concurrency_both_topologies_answer_every_request_as_alone(
    embedded: Server, through_runner: Server
) -> None:
    files = {path.name: path.read_bytes() for path in FILES}
    alone = {
        name: predictions(embedded.client.post("/classify?top_k=10", content=data))
        for name, data in files.items()
    }
    # No two samples are as close as two batch sizes may make the answers of one.
    assert len({json.dumps(answer) for answer in alone.values()}) == len(FILES)

    for server in (embedded, through_runner):
        answers = concurrent_answers(server, files)

        assert len(answers) == ROUNDS * len(FILES)
        for name, answer in answers:
            assert_close(answer, alone[name])


def concurrent_answers(
    server: Server, files: dict[str, bytes]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Every file `ROUNDS` times, 32 requests at a time, forms and bodies mixed."""
    limits = httpx.Limits(max_connections=CONCURRENT)
    uploads: list[tuple[str, dict[str, Any]]] = []
    for _ in range(ROUNDS // 2):
        uploads += [(name, {"files": {"image": data}}) for name, data in files.items()]
        uploads += [(name, {"content": data}) for name, data in files.items()]
    with (
        httpx.Client(base_url=server.url, timeout=PATIENCE_S, limits=limits) as client,
        ThreadPoolExecutor(CONCURRENT) as pool,
    ):

        def send(named: tuple[str, dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
            name, upload = named
            return name, predictions(client.post("/classify?top_k=10", **upload))

        return list(pool.map(send, uploads))
