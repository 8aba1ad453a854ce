"""How a server ends: accepted requests are answered, whatever the topology."""

import os
import signal
import socket

import pytest

from tests.imports import PATIENCE_S, SAMPLES
from tests.service.conftest import PATIENT, NewPlace
from tests.service.server import Server, is_open, read_to_end, wait_until

pytestmark = pytest.mark.slow
SAMPLE = (SAMPLES / "2-01.jpg").read_bytes()
HELD = 12


def held_upload(server: Server) -> socket.socket:
    """A request that the server has accepted and that lacks its last byte."""
    connection = server.connect()
    head = f"POST /classify?top_k=1 HTTP/1.1\r\nHost: test\r\nContent-Length: {len(SAMPLE)}\r\n\r\n"
    connection.sendall(head.encode() + SAMPLE[:-1])
    return connection


def idle_connection(server: Server) -> socket.socket:
    """A connection between two requests: a server that stops closes it first of all."""
    connection = server.connect()
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n")
    received = b""
    while not received.endswith(b"\r\n\r\n\n"):  # the body of /livez is one line feed
        received += connection.recv(1)
    return connection


@pytest.mark.parametrize("topology", ["embedded", "runner"])
def test_sigterm_lets_accepted_requests_finish(new_place: NewPlace, topology: str) -> None:
    with Server(new_place(), topology=topology, **PATIENT) as server:
        held = [held_upload(server) for _ in range(HELD)]
        server.wait_for_in_flight(HELD)
        # One for each API process: they stop one after the other.
        idle = [idle_connection(server) for _ in range(8)]

        server.process.send_signal(signal.SIGTERM)
        assert [read_to_end(connection) for connection in idle] == [b""] * len(idle)
        for connection in held:
            connection.sendall(SAMPLE[-1:])
        answers = [read_to_end(connection) for connection in held]

        assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * HELD
        assert all(b'{"label":"2","class_id":2,' in answer for answer in answers)
        assert server.wait() == 0
    assert "Traceback" not in server.log
    assert not is_open(server.port)


@pytest.mark.parametrize("topology", ["embedded", "runner"])
def test_ctrl_c_stops_every_process_without_a_traceback(new_place: NewPlace, topology: str) -> None:
    with Server(new_place(), topology=topology) as server:
        workers = server.workers()
        assert server.client.post("/classify", content=SAMPLE).status_code == 200

        status = server.interrupt()

    assert status == 0
    assert "Traceback" not in server.log
    assert workers
    assert not any(is_running(worker) for worker in workers)


def is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def test_while_the_runner_is_gone_nothing_hangs_and_it_comes_back(new_place: NewPlace) -> None:
    with Server(new_place(), topology="runner", timeout_ms=3_000, workers=1) as server:
        (runner,) = server.workers("ModelRunner")
        # Stopped, not killed: BentoML would have another one up before all was asked.
        os.kill(runner, signal.SIGSTOP)

        probe = server.client.get("/readyz", timeout=50)
        card = server.client.get("/model", timeout=50)
        answer = server.client.post("/classify", content=SAMPLE, timeout=50)

        assert [probe.status_code, card.status_code] == [503, 503]
        assert probe.json()["error"]["code"] == card.json()["error"]["code"] == "not_ready"
        assert probe.headers["retry-after"] == "1"
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        assert server.client.get("/livez", timeout=50).status_code == 200

        os.kill(runner, signal.SIGKILL)
        during = server.client.post("/classify", content=SAMPLE, timeout=50)
        assert during.status_code in (200, 503, 504), during.text
        wait_until(
            lambda: server.client.get("/readyz", timeout=50).status_code == 200,
            PATIENCE_S,
            "a new runner",
        )
        assert server.client.post("/classify", content=SAMPLE).status_code == 200
        assert server.workers("ModelRunner") != [runner]
