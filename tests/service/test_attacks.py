"""Attacks through ports, headers and the log (docs/security.md)."""

import pickle
import socket
import stat
from pathlib import Path

import psutil

from tests.importer.test_weights_hostile import Payload
from tests.imports import SAMPLES
from tests.service.server import Server

GOOD = (SAMPLES / "7-01.png").read_bytes()


def test_a_pickled_body_is_not_unpickled(either: Server, tmp_path: Path) -> None:
    mark = tmp_path / "unpickled"
    body = pickle.dumps({"image": Payload(mark)})

    for path in ("/classify", "/infer", "/prepare"):
        for content_type in ("application/vnd.bentoml+pickle", "application/octet-stream"):
            answer = either.client.post(path, content=body, headers={"content-type": content_type})
            assert answer.status_code in (404, 405, 415), path

    assert not mark.exists()


def test_one_port_is_open_and_the_runners_socket_is_private(through_runner: Server) -> None:
    processes = (through_runner.process.pid, *through_runner.workers())
    sockets = [each for pid in processes for each in psutil.Process(pid).net_connections("all")]

    ports = {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN}
    paths = {Path(each.laddr) for each in sockets if each.family == socket.AF_UNIX and each.laddr}

    assert ports == {through_runner.port}
    assert paths
    for path in paths:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700, path


def test_clients_cannot_create_metric_series(embedded: Server) -> None:
    before = embedded.metrics().keys()

    for i in range(50):
        for folder in ("", "/static_content", "/classify", "/metrics"):
            embedded.client.get(f"{folder}/made-up-{i}")
        embedded.client.request(f"METHOD{i}", "/classify")
        embedded.client.post(
            f"/classify?made_up={i}", content=GOOD, headers={"x-request-id": f"id-{i}"}
        )

    assert embedded.metrics().keys() == before


def test_clients_cannot_forge_log_lines(embedded: Server) -> None:
    forged = "forged 2026-01-01 [INFO] all is well"
    form = (
        f'--b\r\nContent-Disposition: form-data; name="image"; filename="a%0A{forged}"\r\n\r\n'
        f"x\r\n--b--\r\n"
    )

    embedded.client.get(f"/%0A{forged}")
    embedded.client.get("/model", headers={"x-request-id": f"a\t{forged}"})
    embedded.raw(
        b"GET /model\x0b\x0c HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\x85"
        + forged.encode()
        + b"\r\nConnection: close\r\n\r\n"
    )
    embedded.client.post(
        "/classify", content=form, headers={"content-type": "multipart/form-data; boundary=b"}
    )

    assert forged not in embedded.log


def test_browsers_neither_cache_answers_nor_render_them_as_pages(embedded: Server) -> None:
    for answer in (
        embedded.client.post("/classify", content=GOOD),
        embedded.client.post("/classify", content=b"<script>"),
        embedded.client.get("/model"),
        embedded.client.get("/<script>"),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"] == "application/json"
