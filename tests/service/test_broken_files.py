"""Hostile files over HTTP: each is answered, none costs memory or the service."""

import csv
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil

from tests.imports import PATIENCE_S, SAMPLES
from tests.service.answers import predictions
from tests.service.server import Server
from tests.shared_data import SHARED, needs_shared_data

BROKEN = SHARED / "broken"
CLIENT_ERRORS = {400, 413, 415, 422}
GROWTH_BYTES = 50_000_000


def resident_bytes(server: Server) -> int:
    """Memory of the whole process tree."""
    ids = (server.process.pid, *server.workers())
    return sum(psutil.Process(process_id).memory_info().rss for process_id in ids)


def is_as_expected(row: dict[str, str], status: int) -> bool:
    if row["firm"] == "no":  # decoders differ, or it is a matter of limits
        return status == 200 or status in CLIENT_ERRORS
    return status == 200 if row["expect"] == "ok" else status in CLIENT_ERRORS


@needs_shared_data
def test_every_file_of_the_corpus_is_answered_as_its_row_expects(either: Server) -> None:
    with (BROKEN / "broken.csv").open(encoding="utf-8", newline="") as table:
        corpus = list(csv.DictReader(table))
    assert len(corpus) == 1_283
    files = [(BROKEN / row["path"]).read_bytes() for row in corpus]
    workers = either.workers()
    with (
        httpx.Client(base_url=either.url, timeout=PATIENCE_S) as client,
        ThreadPoolExecutor(8) as pool,
    ):

        def send(data: bytes) -> int:
            return client.post("/classify", content=data).status_code

        first = list(pool.map(send, files))  # warms up, under concurrency
        before = resident_bytes(either)
        second = [send(data) for data in files]
        growth = resident_bytes(either) - before

    wrong = [
        (row["path"], row["expect"], status)
        for statuses in (first, second)
        for row, status in zip(corpus, statuses, strict=True)
        if not is_as_expected(row, status)
    ]
    assert wrong == []
    assert growth < GROWTH_BYTES
    assert either.workers() == workers  # none died and was replaced
    sample = (SAMPLES / "5-01.jpg").read_bytes()
    assert predictions(either.client.post("/classify", content=sample))[0]["label"] == "5"
