"""What serving processes keep away from: torch, uvloop, the network."""

from pathlib import Path

import pytest

from tests.imports import SAMPLES
from tests.service.places import NewPlace, Place
from tests.service.server import Server

pytestmark = pytest.mark.slow
SAMPLE = (SAMPLES / "2-01.jpg").read_bytes()
FORBIDDEN = {"torch", "torchvision", "uvloop", "nncf", "importer", "examples", "tests"}

RECORDER = """\
import sys


def record(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        what = arguments[0] if event.startswith("socket.get") else arguments[1]
        with open({log!r}, "a") as log:
            log.write(f"{{event}} {{what!r}}\\n")


sys.addaudithook(record)
"""
"""Runs in every process of a server before anything else: Python imports sitecustomize."""


def test_serving_processes_have_no_torch_and_no_uvloop_in_memory(either: Server) -> None:
    either.client.post("/classify", content=SAMPLE)

    processes = [either.process.pid, *either.workers()]
    maps = [Path(f"/proc/{process_id}/maps").read_text() for process_id in processes]

    assert len(processes) >= 2
    assert not [text for text in maps if "libtorch" in text or "uvloop" in text]
    # The search would find a library that is there.
    library = either.card()["engine"]["name"].partition("-")[0]
    assert any(library in text for text in maps)


def test_importing_the_service_imports_nothing_of_the_import_side(imported: Place) -> None:
    code = f"import sys, service; print({FORBIDDEN!r} & sys.modules.keys())"

    assert imported.run("-c", code, topology="runner") == "set()"


def is_local(line: str) -> bool:
    """Loopback, a Unix socket, or the address of this host looked up for itself."""
    return "'127.0.0.1'" in line or "'/tmp/" in line or "bentoml-uds-" in line


def test_a_server_connects_to_nothing_outside(new_place: NewPlace, tmp_path: Path) -> None:
    log = tmp_path / "connections.txt"
    (tmp_path / "sitecustomize.py").write_text(RECORDER.format(log=str(log)))
    url = "http://192.0.2.1/digit.png"  # a network for documentation: nobody is there
    part = f'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n{url}\r\n--b--\r\n'
    with Server(
        new_place(), environment={"PYTHONPATH": str(tmp_path)}, topology="runner"
    ) as server:
        form = {"content-type": "multipart/form-data; boundary=b"}
        server.client.post("/classify", content=part.encode(), headers=form)
        server.client.post("/classify", content=url.encode())
        server.client.post("/classify", json={"image": url})
        server.client.post("/classify", files={"image": SAMPLE})
        for path in ("/", "/docs.json", "/model", "/metrics", "/readyz", "/livez", "/schema.json"):
            # 503 where a stalled machine makes the runner late.
            assert server.client.get(path).status_code in (200, 503)

    lines = log.read_text().splitlines()
    assert any(line.startswith("socket.connect ") for line in lines)  # API process to runner
    assert [line for line in lines if not is_local(line)] == []
