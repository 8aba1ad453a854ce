"""Hostile files over HTTP: each is answered, none costs memory, time or the service."""

import csv
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.imports import PATIENCE_S, SAMPLES
from tests.service.server import Server
from tests.shared_data import SHARED, needs_shared_data

pytestmark = [pytest.mark.slow, needs_shared_data]
BROKEN = SHARED / "broken"
CLIENT_ERRORS = {400, 413, 415, 422}
LONGEST_S = 5
"""One file, on a machine that others use too; alone the slowest takes well below a second."""
GROWTH_BYTES = 50_000_000


def rows() -> list[dict[str, str]]:
    with (BROKEN / "broken.csv").open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def resident_bytes(server: Server) -> int:
    """Memory of the whole process tree."""
    total = 0
    for process_id in [server.process.pid, *server.workers()]:
        for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1_024
    return total


def is_as_expected(row: dict[str, str], status: int) -> bool:
    if row["firm"] == "no":  # decoders differ, or it is a matter of limits
        return status == 200 or status in CLIENT_ERRORS
    return status == 200 if row["expect"] == "ok" else status in CLIENT_ERRORS


def test_every_file_of_the_corpus_is_answered_as_its_row_expects(either: Server) -> None:
    corpus = rows()
    assert len(corpus) == 1_283
    files = {row["path"]: (BROKEN / row["path"]).read_bytes() for row in corpus}
    workers = either.workers()
    with httpx.Client(base_url=either.url, timeout=PATIENCE_S) as client:

        def send(path: str) -> tuple[int, float]:
            begun = time.perf_counter()
            status = client.post("/classify", content=files[path]).status_code
            return status, time.perf_counter() - begun

        with ThreadPoolExecutor(8) as pool:  # the first pass warms up, under concurrency
            first = dict(zip(files, pool.map(send, files), strict=True))
        before = resident_bytes(either)
        second = {path: send(path) for path in files}
        growth = resident_bytes(either) - before

    wrong = [
        (row["path"], row["expect"], answers[row["path"]][0])
        for row in corpus
        for answers in (first, second)
        if not is_as_expected(row, answers[row["path"]][0])
    ]
    slowest = max(second, key=lambda path: second[path][1])
    logging.getLogger(__name__).info("slowest %s; growth %d bytes", second[slowest], growth)
    assert wrong == []
    assert second[slowest][1] < LONGEST_S, slowest
    assert growth < GROWTH_BYTES
    assert either.workers() == workers  # none died and was replaced
    sample = (SAMPLES / "5-01.jpg").read_bytes()
    answer = either.client.post("/classify", content=sample).json()
    assert answer["predictions"][0]["label"] == "5"
