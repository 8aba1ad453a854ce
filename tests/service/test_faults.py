"""Faults under a running server: documented behaviour, and no wrong answers.

docs/serving.md, "Faults", describes the same.
"""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from image_classifier.inference.heartbeat import LATE_S
from image_classifier.inference.machine import usable_cores
from tests.imports import PATIENCE_S, SAMPLES
from tests.service.places import NewPlace, Place
from tests.service.server import Server, wait_until

pytestmark = [pytest.mark.all, pytest.mark.slow]

IMAGES = {path.name: path.read_bytes() for path in sorted(SAMPLES.iterdir())}
"""Files named after their digit: 3-03.webp."""
RATE_PER_S = 50
CLIENTS = 10
TIMEOUT_MS = 3_000

FAULTS = """

import pathlib as _pathlib
import time as _time

_sound_run = OpenVinoEngine.run
_fault = _pathlib.Path({fault!r})


def _faulty_run(self, batch):
    match _fault.read_text() if _fault.exists() else "":
        case "error":
            raise RuntimeError("an injected fault")
        case "hang":
            while _fault.exists():
                _time.sleep(0.05)
    return _sound_run(self, batch)


OpenVinoEngine.run = _faulty_run
"""
"""Appended to the server's copy of the engine; the text of a file selects the fault."""

CLOCK = """\
import pathlib
import time

_time = time.time
time.time = lambda: _time() + (86_400 if pathlib.Path({fault!r}).exists() else 0)
"""
"""A sitecustomize module that sets the wall clock a day ahead while a file exists."""


class Load:
    """Requests at a steady rate with every answer checked.

    Attributes:
        outcomes: Status codes, or names of httpx exceptions.
        wrong: Unexpected answers.
    """

    def __init__(self, server: Server) -> None:
        self.outcomes: list[str] = []
        self.wrong: list[str] = []
        self._url = server.url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(CLIENTS)]

    def _run(self, number: int) -> None:
        files = list(IMAGES.items())[number::CLIENTS]
        with httpx.Client(base_url=self._url, timeout=PATIENCE_S) as client:
            turn = 0
            while not self._stop.wait(CLIENTS / RATE_PER_S):
                name, file = files[turn % len(files)]
                turn += 1
                try:
                    answer = client.post("/classify?top_k=1", content=file)
                except httpx.TransportError as error:
                    self.outcomes.append(type(error).__name__)
                else:
                    self._check(name, answer)
                    self.outcomes.append(str(answer.status_code))

    def _check(self, name: str, answer: httpx.Response) -> None:
        if answer.status_code == 200:
            (prediction,) = answer.json()["predictions"]
            if prediction["label"] != name[0]:
                self.wrong.append(f"{name}: {answer.text}")
        elif answer.json()["error"].keys() != {"code", "message", "request_id"}:
            self.wrong.append(f"{name}: {answer.text}")

    def counts(self) -> Counter[str]:
        return Counter(self.outcomes)

    def wait_for(self, outcome: str, count: int = 1) -> None:
        """Wait for further outcomes of a kind."""
        before = self.counts()[outcome]
        wait_until(
            lambda: self.counts()[outcome] >= before + count,
            f"{count} more outcomes {outcome}, after {self.counts()}",
        )

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def loaded(
    place: Place, *, environment: dict[str, str] | None = None, **settings: Any
) -> Iterator[tuple[Server, Load]]:
    """A server under load, which must have recovered at the end."""
    with Server(
        place, environment=environment, timeout_ms=TIMEOUT_MS, workers=1, **settings
    ) as server:
        load = Load(server)
        load.start()
        try:
            load.wait_for("200", 20)
            yield server, load
            load.wait_for("200", 100)
        finally:
            load.stop()
        assert load.wrong == []
        assert server.client.get("/readyz").status_code == 200


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that makes engines fail while it exists; its text selects the fault."""
    return tmp_path_factory.mktemp("fault") / "fault"


@pytest.fixture(scope="module")
def breakable(imported: Place, fault: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place with an engine that fails on demand."""
    home = tmp_path_factory.mktemp("breakable")
    shutil.copytree(imported.directory, home / "checkout")
    with (home / "checkout/image_classifier/inference/engines/openvino.py").open("a") as file:
        file.write(FAULTS.format(fault=str(fault)))
    return Place(directory=home / "checkout", home=imported.with_own_store(home).home)


def memories_shared_with_runner(server: Server) -> int:
    return sum(
        Path(f"/proc/{runner}/maps").read_text().count("memfd:inputs")
        for runner in server.workers("ModelRunner")
    )


@pytest.mark.parametrize("service", ["API", "ModelRunner"])
def test_a_killed_process_is_replaced_by_one_with_the_same_model(
    new_place: NewPlace, tmp_path: Path, service: str
) -> None:
    place = new_place()
    lock = shutil.copy(place.lock, tmp_path)
    with loaded(place, topology="runner", lock=lock) as (server, load):
        name = "ModelRunner" if service == "ModelRunner" else ""
        runners = server.workers("ModelRunner")
        victims = runners if name else [w for w in server.workers() if w not in runners]

        Path(lock).write_text("another model's, by `use`")
        os.kill(victims[0], signal.SIGKILL)

        wait_until(
            lambda: victims[0] not in server.workers() and len(server.workers()) == 2,
            "another process",
        )
        # The shared memory of a killed API process is freed.
        wait_until(lambda: memories_shared_with_runner(server) == 1, "its inputs")
    assert load.counts().keys() <= {
        *("200", "429", "503", "504"),
        *("ReadError", "RemoteProtocolError"),  # connections of the process that died
    }


def test_a_container_ends_when_one_of_its_processes_dies(new_place: NewPlace) -> None:
    server = Server(new_place(), environment={"BENTOML_CONTAINERIZED": "true"}, workers=2).ready()
    worker, _ = server.workers()

    os.kill(worker, signal.SIGKILL)

    assert server.wait() == 1
    server.client.close()
    assert f"a process of the API ({worker}) ended with status -9" in server.log


@pytest.mark.parametrize(("kind", "code"), [("error", "500"), ("hang", "504")])
def test_a_broken_engine_fails_its_requests_and_the_probe_until_it_works_again(
    breakable: Place, fault: Path, kind: str, code: str
) -> None:
    with loaded(breakable) as (server, load):

        def wait_for_probe(status: int) -> None:
            wait_until(
                lambda: server.client.get("/livez").status_code == status, f"/livez {status}"
            )

        fault.write_text(kind)
        try:
            load.wait_for(code, 5)
            wait_for_probe(503)
        finally:
            fault.unlink()
        wait_for_probe(200)
    assert load.counts().keys() <= {"200", code, "429"}


def test_a_suspended_process_resumes(new_place: NewPlace) -> None:
    with loaded(new_place()) as (server, load):
        (worker,) = server.workers()

        os.kill(worker, signal.SIGSTOP)
        time.sleep(2 * TIMEOUT_MS / 1e3)
        with pytest.raises(httpx.TimeoutException):
            server.client.get("/livez", timeout=1)
        os.kill(worker, signal.SIGCONT)
    assert load.counts().keys() <= {"200", "429", "504"}


def test_the_probe_of_each_process_answers_for_all(new_place: NewPlace) -> None:
    with Server(new_place(), workers=2) as server:
        suspended, _ = server.workers()
        streams = server.client.get("/model").json()["engine"]["streams"]
        assert streams <= max(1, usable_cores() // 2)

        def statuses() -> set[int]:
            """Return the answers of the process that is not suspended."""
            found = set()
            for _ in range(4):
                with contextlib.suppress(httpx.TimeoutException):
                    found.add(httpx.get(f"{server.url}/livez", timeout=1).status_code)
            return found

        assert statuses() == {200}
        os.kill(suspended, signal.SIGSTOP)
        try:
            wait_until(lambda: statuses() == {503}, "/livez 503")
        finally:
            os.kill(suspended, signal.SIGCONT)
        wait_until(lambda: statuses() == {200}, "/livez 200")
        os.kill(suspended, signal.SIGKILL)
        wait_until(lambda: suspended not in server.workers(), "the end of a process")
        time.sleep(LATE_S + 1)
        assert statuses() == {200}


def test_a_clock_that_jumps_changes_nothing(new_place: NewPlace, tmp_path: Path) -> None:
    jump = tmp_path / "jump"
    (tmp_path / "sitecustomize.py").write_text(CLOCK.format(fault=str(jump)))

    with loaded(new_place(), environment={"PYTHONPATH": str(tmp_path)}) as (_, load):
        jump.touch()
        load.wait_for("200", 50)
        jump.unlink()
    assert load.counts().keys() == {"200"}


def test_a_lost_model_store_matters_only_when_a_process_starts(
    new_place: NewPlace,
) -> None:
    place = new_place()
    with loaded(place) as (_, load):
        shutil.move(place.home / "models", place.home / "elsewhere")
        load.wait_for("200", 50)
        shutil.move(place.home / "elsewhere", place.home / "models")
    assert load.counts().keys() == {"200"}

    server = Server(place, workers=1).ready()
    shutil.rmtree(place.home / "models")
    os.kill(server.workers()[0], signal.SIGKILL)

    assert server.wait() == 1
    server.client.close()
    assert f"model store: {place.tag} is not there" in server.log
    assert "Traceback" not in server.log


def test_connections_beyond_the_limit_of_open_files_wait(new_place: NewPlace) -> None:
    with loaded(new_place()) as (server, load):
        (worker,) = server.workers()
        open_files = len(list(Path(f"/proc/{worker}/fd").iterdir()))
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (open_files + 8, open_files + 8))

        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
        load.wait_for("200", 50)
        assert len(list(Path(f"/proc/{worker}/fd").iterdir())) <= open_files + 8
        for connection in idle:
            connection.close()
        assert httpx.get(f"{server.url}/livez", timeout=PATIENCE_S).status_code == 200
    assert load.counts().keys() == {"200"}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_changes_nothing(new_place: NewPlace, tmp_path: Path) -> None:
    place = new_place()
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk])
    if mounted.returncode:
        pytest.skip("no right to mount")
    try:
        shutil.copytree(place.home / "models", disk / "models")
        full = Place(directory=place.directory, home=disk)
        environment = {"TMPDIR": str(disk)}
        with loaded(full, environment=environment) as (_, load):
            with (
                (disk / "filler").open("wb", buffering=0) as filler,
                pytest.raises(OSError, match="No space left"),
            ):
                while True:
                    filler.write(b"\0" * 4096)
            load.wait_for("200", 100)
        assert load.counts().keys() == {"200"}
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
