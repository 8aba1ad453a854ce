"""Lifecycles of servers: accepted requests, workers, metrics and the port."""

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import psutil

from tests.imports import SAMPLES
from tests.service.places import NewPlace
from tests.service.server import PATIENT, Server, is_open, read_to_end, upload, wait_until

SAMPLE = (SAMPLES / "2-01.jpg").read_bytes()
HELD = 12


def held_upload(server: Server) -> socket.socket:
    """Open a request without its last byte."""
    connection = server.connect()
    connection.sendall(upload(SAMPLE, "?top_k=1")[:-1])
    return connection


def idle_connection(server: Server) -> socket.socket:
    """Open a connection that is idle after a request; a stopping server closes it first."""
    connection = server.connect()
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n")
    received = b""
    while not received.endswith(b"\r\n\r\n\n"):  # the body of /livez is one line feed
        received += connection.recv(1)
    return connection


def test_an_embedded_server_from_its_start_to_its_end(new_place: NewPlace) -> None:
    with Server(new_place(), log_format="json", **PATIENT) as server:
        a_second_start_on_its_port_is_told_and_takes_nothing_away(server)
        a_killed_worker_is_told_counted_out_and_replaced(server)
        when_stopped_it_answers_what_it_accepted_and_nothing_else(server)


def test_a_server_with_a_runner_from_its_start_to_its_end(new_place: NewPlace) -> None:
    settings = {**PATIENT, "timeout_ms": 9_000}
    with Server(new_place(), topology="runner", **settings) as server:
        while_the_runner_is_gone_nothing_hangs_and_it_comes_back(server)
        when_stopped_it_answers_what_it_accepted_and_nothing_else(server)


def a_second_start_on_its_port_is_told_and_takes_nothing_away(server: Server) -> None:
    for _ in range(3):
        assert server.client.post("/classify", content=SAMPLE).status_code == 200

    again = Server(server.place, port=server.port)

    assert again.wait() == 1
    again.client.close()
    assert f"127.0.0.1:{server.port}: address already in use" in again.log
    assert "Traceback" not in again.log
    beyond = Server(server.place, port=99_999)  # the system would take 34463
    assert beyond.wait() == 1
    beyond.client.close()
    assert "--port 99999: expected 1 to 65535" in beyond.log
    # BentoML would have emptied the folder of the running server's metrics.
    assert server.client.post("/classify", content=SAMPLE).status_code == 200
    metrics = server.metrics()
    assert metrics['classifier_requests_total{outcome="ok"}'] == 4
    assert metrics['classifier_stage_seconds_count{stage="total"}'] == 4
    assert metrics["process_resident_memory_bytes"] > 50e6
    assert metrics["process_cpu_seconds_total"] > 0


def a_killed_worker_is_told_counted_out_and_replaced(server: Server) -> None:
    (worker,) = server.workers()
    answered = server.metrics()['classifier_requests_total{outcome="ok"}']
    held = [held_upload(server) for _ in range(3)]
    server.wait_for_in_flight(len(held))

    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: server.workers() not in ([], [worker]), "another worker")
    # No worker loads a model that fast, so the supervisor answers.
    refused = server.raw(upload(bytes(300_000)))
    assert refused.startswith(b"HTTP/1.1 503")
    assert b"\r\nRetry-After: 1\r\n" in refused
    ask = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    while b"the service starts; " in (answer := server.raw(ask)):  # imports, before the first step
        time.sleep(0.02)
    assert b"the service starts (" in answer  # with the name of the step
    server.ready()

    metrics = server.metrics()
    assert metrics["classifier_in_flight"] == 0
    assert metrics['classifier_requests_total{outcome="ok"}'] == answered
    assert server.client.post("/classify", content=b"x").status_code == 415
    lines = [json.loads(line) for line in server.log.splitlines()]
    (died,) = [line for line in lines if "ended with status" in line["message"]]
    assert died["message"].startswith(f"a process of the API ({worker}) ended with status -9")
    starts = [line for line in lines if line["message"].startswith("serving: ")]
    assert len(starts) == 2
    assert starts[0]["address"] == server.url
    assert starts[0]["topology"] == "embedded"
    assert starts[0]["settings"]["CLASSIFIER_LOG_FORMAT"] == "json"
    assert {"model", "digest", "engine", "precision", "batch_sizes"} <= starts[0].keys()
    assert starts[0]["api_processes"] == 1
    (note,) = [line for line in lines if line.get("status") == 415]
    assert note["code"] == "unsupported_media_type"


def while_the_runner_is_gone_nothing_hangs_and_it_comes_back(server: Server) -> None:
    (runner,) = server.workers("ModelRunner")
    # Stopped, not killed: a replacement might start too soon.
    os.kill(runner, signal.SIGSTOP)

    probe = server.client.get("/readyz", timeout=50)
    card = server.client.get("/model", timeout=50)
    answer = server.client.post("/classify", content=SAMPLE, timeout=50)

    assert [probe.status_code, card.status_code] == [503, 503]
    assert probe.json()["error"]["code"] == card.json()["error"]["code"] == "not_ready"
    assert probe.headers["retry-after"] == "1"
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"
    wait_until(  # 9 s after the start of the hanging batch
        lambda: server.client.get("/livez", timeout=50).status_code == 503, "/livez"
    )

    os.kill(runner, signal.SIGKILL)
    during = server.client.post("/classify", content=SAMPLE, timeout=50)
    assert during.status_code in (200, 503, 504), during.text
    server.ready()
    assert server.client.post("/classify", content=SAMPLE).status_code == 200
    # The other API process may wait longer for its retried batch.
    wait_until(lambda: server.client.get("/livez").status_code == 200, "/livez")
    assert server.workers("ModelRunner") != [runner]
    steps = server.client.get("/ui/api/start").json()["steps"]
    assert {"load", "self_check"} <= {name for name, *_, service in steps if service}
    assert f"a process of ModelRunner ({runner}) ended with status -9" in server.log


def when_stopped_it_answers_what_it_accepted_and_nothing_else(server: Server) -> None:
    assert [server.client.get("/nope").status_code for _ in range(3)] == [404] * 3
    held = [held_upload(server) for _ in range(HELD)]
    server.wait_for_in_flight(HELD)
    # Enough for each API process; they stop one after the other.
    idle = [idle_connection(server) for _ in range(8)]

    server.process.send_signal(signal.SIGTERM)
    assert [read_to_end(connection) for connection in idle] == [b""] * len(idle)
    # The port stays open while requests are in flight. If one process had all idle connections, the
    # other may still accept.
    late: list[bytes] = []

    def refused() -> bool:
        ask = b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n"
        late[:] = [server.raw(ask) for _ in range(5)]
        return all(answer.startswith(b"HTTP/1.1 503") for answer in late)

    wait_until(refused, "503 from every process")
    time.sleep(1)  # perhaps only the supervisor answered; uvicorn looks for signals every 0.1 s
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
    assert "not_found: 2 more since the last such line" in server.log
    assert "Traceback" not in server.log
    assert not is_open(server.port)


def test_servers_of_one_store_count_their_own_requests_only(
    embedded: Server, new_place: NewPlace
) -> None:
    before = embedded.metrics()['classifier_requests_total{outcome="ok"}']

    with Server(embedded.place, topology="runner", target="--development", workers=1) as other:
        with ThreadPoolExecutor(8) as pool:
            servers = [embedded] * 600 + [other] * 400
            answers = pool.map(
                lambda server: server.client.post("/classify", content=SAMPLE), servers
            )
            assert {answer.status_code for answer in answers} == {200}

        assert embedded.metrics()['classifier_requests_total{outcome="ok"}'] == before + 600
        assert other.metrics()['classifier_requests_total{outcome="ok"}'] == 400
        assert other.card()["topology"] == "embedded"  # in development no runner process is started
        workers_end_with_a_supervisor_that_is_killed(other)


def workers_end_with_a_supervisor_that_is_killed(server: Server) -> None:
    workers = server.workers()
    assert workers
    for stray in (signal.SIGUSR1, signal.SIGUSR2):
        server.process.send_signal(stray)
    assert server.client.get("/livez").status_code == 200
    server.client.close()

    server.process.kill()
    server.process.wait()

    wait_until(lambda: not any(map(psutil.pid_exists, workers)), "the end of the workers")
    assert not is_open(server.port)
