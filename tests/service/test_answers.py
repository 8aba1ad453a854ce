"""What the samples of the digits example are answered, by every way of sending them."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.imports import PATIENCE_S, SAMPLES
from tests.service.answers import assert_close, predictions
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
        probabilities = [one["probability"] for one in answer]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-6)
        assert sorted(one["class_id"] for one in answer) == list(range(10))
        for method, kind in [("POST", ""), ("PUT", ""), ("PUT", "application/octet-stream")]:
            headers = {"content-type": kind} if kind else {}
            body = client.request(method, "/classify?top_k=10", content=data, headers=headers)
            assert predictions(body) == answer, (path.name, method, kind)
    for query, expected in {"": 5, "?top_k=1": 1, "?top_k=3": 3}.items():
        assert predictions(client.post(f"/classify{query}", content=data)) == answer[:expected]


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
    uploads: list[tuple[str, dict[str, Any]]] = []
    for _ in range(ROUNDS // 2):
        uploads += [(name, {"files": {"image": data}}) for name, data in files.items()]
        uploads += [(name, {"content": data}) for name, data in files.items()]

    for server in (embedded, through_runner):
        limits = httpx.Limits(max_connections=CONCURRENT)
        with (
            httpx.Client(base_url=server.url, timeout=PATIENCE_S, limits=limits) as client,
            ThreadPoolExecutor(CONCURRENT) as pool,
        ):
            sent = [
                (name, pool.submit(client.post, "/classify?top_k=10", **upload))
                for name, upload in uploads
            ]
            for name, response in sent:
                assert_close(predictions(response.result()), alone[name])
