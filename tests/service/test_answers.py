"""Answers to the samples of the digits example, sent in every way."""

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


def test_every_sample_is_classified_correctly_however_it_is_sent(embedded: Server) -> None:
    client = embedded.client
    for path in FILES:
        data = path.read_bytes()
        form = client.post("/classify", files={"image": (path.name, data)}, data={"top_k": "10"})
        answer = predictions(form)

        # As in the example's README, all 30 samples are classified correctly.
        assert (answer[0]["label"], answer[0]["class_id"]) == (path.name[0], int(path.name[0]))
        probabilities = [prediction["probability"] for prediction in answer]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-6)
        assert sorted(prediction["class_id"] for prediction in answer) == list(range(10))
        for method, kind in [("POST", ""), ("PUT", ""), ("PUT", "application/octet-stream")]:
            headers = {"content-type": kind} if kind else {}
            body = client.request(method, "/classify?top_k=10", content=data, headers=headers)
            assert predictions(body) == answer, (path.name, method, kind)
    for query, expected in {"": 5, "?top_k=1": 1, "?top_k=3": 3}.items():
        assert predictions(client.post(f"/classify{query}", content=data)) == answer[:expected]


def test_concurrent_requests_get_the_answers_of_single_requests_in_both_topologies(
    embedded: Server, through_runner: Server
) -> None:
    files = {path.name: path.read_bytes() for path in FILES}
    expected = {
        name: predictions(embedded.client.post("/classify?top_k=10", content=data))
        for name, data in files.items()
    }
    # All samples differ, so swapped answers would be found.
    assert len({json.dumps(answer) for answer in expected.values()}) == len(FILES)
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
                assert_close(predictions(response.result()), expected[name])
