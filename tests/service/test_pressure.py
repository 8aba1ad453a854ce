"""Clients that leave, clients that are slow, and more clients than the service can answer."""

import functools
import io
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image

from image_classifier.inference.machine import usable_cores
from tests.imports import PATIENCE_S, SAMPLES
from tests.service.answers import assert_close
from tests.service.conftest import PATIENT, NewPlace
from tests.service.server import Server, read_answer

SAMPLE = (SAMPLES / "2-01.jpg").read_bytes()
HELD = 8


@functools.cache
def slow_image() -> bytes:
    """9 megapixels of noise: some 200 ms of one core."""
    file = io.BytesIO()
    Image.effect_noise((3_000, 3_000), 60).save(file, "PNG", compress_level=0)
    return file.getvalue()


def head(length: int) -> bytes:
    return f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def test_clients_that_leave_free_their_places(either: Server) -> None:
    before = either.metrics().get('classifier_requests_total{outcome="client_gone"}', 0)
    slow = slow_image()
    connections = [either.connect() for _ in range(2 * HELD)]
    for connection in connections[:HELD]:
        connection.sendall(head(len(slow)) + slow[:-1])
    for connection in connections[HELD:]:
        connection.sendall(head(len(slow)) + slow[:1_000])
    either.wait_for_in_flight(2 * HELD)

    # Half of them leave while their picture is decoded, half while they send it.
    for connection in connections[:HELD]:
        connection.sendall(slow[-1:])
        connection.close()
    for connection in connections[HELD:]:
        connection.close()

    either.wait_for_in_flight(0)
    after = either.metrics()['classifier_requests_total{outcome="client_gone"}']
    assert after - before == 2 * HELD
    assert either.client.post("/classify", content=SAMPLE).status_code == 200


def burst(server: Server, count: int) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=count)
    with (
        httpx.Client(base_url=server.url, timeout=PATIENCE_S, limits=limits) as client,
        ThreadPoolExecutor(count) as pool,
    ):
        return list(
            pool.map(lambda _: client.post("/classify", content=slow_image()), range(count))
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({**PATIENT, "max_queue": 1}, id="one-place"),
        pytest.param({"timeout_ms": 50_000, "max_wait_ms": 0.001}, id="no-wait"),
    ],
)
def test_what_cannot_be_answered_in_time_is_refused_at_once(
    new_place: NewPlace, settings: dict[str, Any]
) -> None:
    with Server(new_place(), **settings) as server:
        responses = burst(server, max(16, 4 * usable_cores()))

        statuses = [response.status_code for response in responses]
        assert set(statuses) == {200, 429}
        refused = [response for response in responses if response.status_code == 429]
        for response in refused:
            assert response.json()["error"]["code"] == "overloaded"
            assert int(response.headers["retry-after"]) >= 1
        accepted = [response for response in responses if response.status_code == 200]
        first, *others = [response.json()["predictions"] for response in accepted]
        for other in others:
            assert_close(other, first)
        metrics = server.metrics()
        assert metrics['classifier_requests_total{outcome="overloaded"}'] == len(refused)
        # After the burst there is room again.
        assert server.client.post("/classify", content=SAMPLE).status_code == 200


def refused_before_its_body(server: Server) -> socket.socket | None:
    """A connection that sent the head of a request only and was answered 429."""
    connection = server.connect()
    connection.sendall(head(len(SAMPLE)))
    connection.settimeout(0.1)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return None
    connection.settimeout(PATIENCE_S)
    assert read_answer(connection)[0] == 429
    return connection


@pytest.mark.slow
def test_a_refusal_does_not_wait_for_the_body_and_the_connection_stays_of_use(
    new_place: NewPlace,
) -> None:
    with Server(new_place(), **PATIENT, max_queue=1) as server, ThreadPoolExecutor(2) as pool:
        found = threading.Event()

        def take_the_place() -> None:
            while not found.is_set():
                server.client.post("/classify", content=slow_image())

        busy = [pool.submit(take_the_place) for _ in range(2)]
        try:
            tries = (refused_before_its_body(server) for _ in range(100))
            connection = next(filter(None, tries), None)
        finally:
            found.set()
        for one in busy:
            one.result()
        assert connection is not None

        connection.sendall(SAMPLE + head(len(SAMPLE)) + SAMPLE)
        assert read_answer(connection)[0] == 200
