"""How servers end and what outlives what: accepted requests, workers, metrics, the port."""

import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

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


def is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("topology", ["embedded", "runner"])
def test_a_stopping_server_answers_what_it_accepted_and_nothing_else(
    new_place: NewPlace, topology: str
) -> None:
    with Server(new_place(), topology=topology, **PATIENT) as server:
        held = [held_upload(server) for _ in range(HELD)]
        server.wait_for_in_flight(HELD)
        # One for each API process: they stop one after the other.
        idle = [idle_connection(server) for _ in range(8)]

        server.process.send_signal(signal.SIGTERM)
        assert [read_to_end(connection) for connection in idle] == [b""] * len(idle)
        # Every API process has stopped to accept; the port is open while requests are in flight.
        late = [server.raw(b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n") for _ in range(5)]
        for connection in held:
            connection.sendall(SAMPLE[-1:])
        answers = [read_to_end(connection) for connection in held]

        assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * HELD
        assert all(b"connection: close" in answer.lower() for answer in answers)
        assert all(b'{"label":"2","class_id":2,' in answer for answer in answers)
        assert [answer[:12] for answer in late] == [b"HTTP/1.1 503"] * len(late)
        assert all(b"\r\nConnection: close\r\n" in answer for answer in late)
        assert json.loads(late[0].partition(b"\r\n\r\n")[2])["error"]["code"] == "not_ready"
        assert server.wait() == 0
    assert "Traceback" not in server.log
    assert not is_open(server.port)


def test_ctrl_c_stops_every_process_without_a_traceback(new_place: NewPlace) -> None:
    with Server(new_place(), topology="runner") as server:
        workers = server.workers()
        assert server.client.post("/classify", content=SAMPLE).status_code == 200

        status = server.interrupt()

    assert status == 0
    assert "Traceback" not in server.log
    assert workers
    assert not any(is_running(worker) for worker in workers)


def test_workers_end_with_a_supervisor_that_is_killed(new_place: NewPlace) -> None:
    server = Server(new_place(), topology="runner", workers=1).ready()
    workers = server.workers()
    assert len(workers) == 2
    server.client.close()

    server.process.send_signal(signal.SIGUSR2)  # a stray signal does no harm
    server.process.kill()
    server.process.wait()

    wait_until(lambda: not any(map(is_running, workers)), PATIENCE_S, "the end of the workers")
    assert not is_open(server.port)


def test_servers_of_one_store_count_their_own_requests_whatever_another_one_does(
    new_place: NewPlace,
) -> None:
    place = new_place()
    with Server(place) as one, Server(place, topology="runner") as two:
        # A second start of the first one, on a port that is taken.
        again = Server(place, port=one.port)
        assert again.wait() == 1
        again.client.close()
        assert f"127.0.0.1:{one.port}: address already in use" in again.log
        assert "Traceback" not in again.log

        with ThreadPoolExecutor(8) as pool:
            servers = [one] * 600 + [two] * 400
            answers = pool.map(
                lambda server: server.client.post("/classify", content=SAMPLE), servers
            )
            assert {answer.status_code for answer in answers} == {200}

        for server, count in ((one, 600), (two, 400)):
            metrics = server.metrics()
            assert metrics['classifier_requests_total{outcome="ok"}'] == count
            assert metrics['classifier_stage_seconds_count{stage="total"}'] == count
            assert metrics["process_resident_memory_bytes"] > 50e6
            assert metrics["process_cpu_seconds_total"] > 0


def test_a_killed_worker_is_told_counted_out_and_replaced(new_place: NewPlace) -> None:
    with Server(new_place(), log_format="json", **PATIENT) as server:
        (worker,) = server.workers()
        assert server.client.post("/classify", content=SAMPLE).status_code == 200
        held = [held_upload(server) for _ in range(3)]
        server.wait_for_in_flight(len(held))

        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: server.workers() not in ([], [worker]), PATIENCE_S, "another worker")
        # Nobody loads a model that fast: the supervisor answers.
        assert server.raw(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 503")
        server.ready()

        metrics = server.metrics()
        assert metrics["classifier_in_flight"] == 0
        assert metrics['classifier_requests_total{outcome="ok"}'] == 1
        assert server.client.post("/classify", content=b"x").status_code == 415
        lines = [json.loads(line) for line in server.log.splitlines()]
        (died,) = [line for line in lines if "ended with status" in line["message"]]
        assert died["message"].startswith(f"a process of the API ({worker}) ended with status -9")
        starts = [line for line in lines if line["message"].startswith("serving: ")]
        assert len(starts) == 2
        assert starts[0]["address"] == server.url
        assert starts[0]["settings"]["CLASSIFIER_LOG_FORMAT"] == "json"
        assert {"model", "digest", "engine", "precision", "batch_sizes"} <= starts[0].keys()
        (refused,) = [line for line in lines if line.get("status") == 415]
        assert refused["code"] == "unsupported_media_type"


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
        wait_until(  # 8 s after the batch began that does not end
            lambda: server.client.get("/livez", timeout=50).status_code == 503, PATIENCE_S, "/livez"
        )

        os.kill(runner, signal.SIGKILL)
        during = server.client.post("/classify", content=SAMPLE, timeout=50)
        assert during.status_code in (200, 503, 504), during.text
        wait_until(
            lambda: server.client.get("/readyz", timeout=50).status_code == 200,
            PATIENCE_S,
            "a new runner",
        )
        assert server.client.post("/classify", content=SAMPLE).status_code == 200
        assert server.client.get("/livez").status_code == 200
        assert server.workers("ModelRunner") != [runner]
        assert f"a process of ModelRunner ({runner}) ended with status -9" in server.log


def test_development_mode_is_ready_in_the_runner_topology(new_place: NewPlace) -> None:
    with Server(new_place(), target="--development", topology="runner", workers=1) as server:
        assert server.client.post("/classify", content=SAMPLE).status_code == 200
        assert server.card()["topology"] == "embedded"  # BentoML then starts no runner process
