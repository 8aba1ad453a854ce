"""Disconnecting clients, overload, and outgoing connections."""

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from image_classifier.inference.machine import usable_cores
from tests.imports import PATIENCE_S, SAMPLES
from tests.preprocessing.files import encoded
from tests.service.answers import assert_close
from tests.service.places import NewPlace
from tests.service.server import PATIENT, Server, upload

SAMPLE = (SAMPLES / "2-01.jpg").read_bytes()
HELD = 8
RECORDER = """\
import sys


def record(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        what = arguments[0] if event.startswith("socket.get") else arguments[1]
        with open({log!r}, "a") as log:
            log.write(f"{{event}} {{what!r}}\\n")


sys.addaudithook(record)
"""
"""A sitecustomize module, which Python imports first in every process of a server."""


@functools.cache
def slow_image() -> bytes:
    """Return 9 megapixels of noise, which take about 200 ms to decode."""
    return encoded(Image.effect_noise((3_000, 3_000), 60), "PNG", compress_level=0)


def test_disconnected_clients_free_their_slots(either: Server) -> None:
    before = either.metrics()['classifier_requests_total{outcome="client_gone"}']
    slow = upload(slow_image())
    connections = [either.connect() for _ in range(2 * HELD)]
    for connection in connections[:HELD]:
        connection.sendall(slow[:-1])
    for connection in connections[HELD:]:
        connection.sendall(slow[:1_000])
    either.wait_for_in_flight(2 * HELD)

    # Half of them disconnect while their image is decoded, half while they send it.
    for connection in connections[:HELD]:
        connection.sendall(slow[-1:])
        connection.close()
    for connection in connections[HELD:]:
        connection.close()

    either.wait_for_in_flight(0)
    after = either.metrics()['classifier_requests_total{outcome="client_gone"}']
    assert after - before == 2 * HELD
    assert either.client.post("/classify", content=SAMPLE).status_code == 200


@pytest.fixture(scope="module")
def connections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the file in which the processes of `one_place` log their connections."""
    folder = tmp_path_factory.mktemp("recorder")
    log = str(folder / "connections.txt")
    (folder / "sitecustomize.py").write_text(RECORDER.format(log=log))
    return folder


@pytest.fixture(scope="module")
def one_place(new_place: NewPlace, connections: Path) -> Iterator[Server]:
    """A server in the runner topology with one API process and a queue of one."""
    settings = {**PATIENT, "topology": "runner", "workers": 1, "max_queue": 1}
    watched = {"PYTHONPATH": str(connections)}
    with Server(new_place(), environment=watched, **settings) as server:
        yield server
        workers = server.workers()
        assert server.interrupt() == 0
    # Ctrl-C stops every process without a traceback.
    assert "Traceback" not in server.log
    assert workers
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


def burst(server: Server, count: int) -> list[httpx.Response]:
    slow = slow_image()
    limits = httpx.Limits(max_connections=count)
    with (
        httpx.Client(base_url=server.url, timeout=PATIENCE_S, limits=limits) as client,
        ThreadPoolExecutor(count) as pool,
    ):
        return list(pool.map(lambda _: client.post("/classify", content=slow), range(count)))


def test_requests_beyond_the_queue_are_refused(one_place: Server) -> None:
    overloaded = 'classifier_requests_total{outcome="overloaded"}'
    before = one_place.metrics()[overloaded]

    responses = burst(one_place, max(16, 4 * usable_cores()))

    refused = [response for response in responses if response.status_code == 429]
    accepted = [response for response in responses if response.status_code == 200]
    assert refused and accepted
    assert len(refused) + len(accepted) == len(responses)
    for response in refused:
        assert response.json()["error"]["code"] == "overloaded"
        assert int(response.headers["retry-after"]) >= 1
    first, *others = [response.json()["predictions"] for response in accepted]
    for other in others:
        assert_close(other, first)
    assert one_place.metrics()[overloaded] - before == len(refused)
    # After the burst requests are accepted again.
    assert one_place.client.post("/classify", content=SAMPLE).status_code == 200


def is_local(line: str) -> bool:
    """Return whether a line is about the loopback address or a Unix socket."""
    return "'127.0.0.1'" in line or "'/tmp/" in line or "bentoml-uds-" in line


def test_a_server_connects_to_nothing_outside(one_place: Server, connections: Path) -> None:
    url = "http://192.0.2.1/digit.png"  # reserved for documentation
    part = f'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n{url}\r\n--b--\r\n'
    client = one_place.client
    form = {"content-type": "multipart/form-data; boundary=b"}
    answers = [
        client.post("/classify", content=part.encode(), headers=form),
        client.post("/classify", content=url.encode()),
        client.post("/classify", json={"image": url}),
        client.post("/classify", files={"image": ("image", url.encode())}),
        client.post(f"/classify?image={url}", content=SAMPLE),
        client.post("/classify", files={"image": SAMPLE}),
    ]
    assert [answer.status_code for answer in answers] == [400, 415, 415, 415, 400, 200]
    for path in ("/", "/docs.json", "/model", "/metrics", "/readyz", "/livez", "/schema.json"):
        # A stalled machine may cause 503.
        assert client.get(path).status_code in (200, 503)

    lines = (connections / "connections.txt").read_text().splitlines()
    assert any(line.startswith("socket.connect ") for line in lines)  # API process to runner
    assert [line for line in lines if not is_local(line)] == []
