"""Server processes for tests."""

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil

from tests.imports import PATIENCE_S
from tests.service.places import Place

PATIENT: dict[str, Any] = {"max_wait_ms": 50_000, "overload_wait_ms": 50_000, "timeout_ms": 50_000}
"""Without admission by estimated wait, which refuses some requests on a busy machine."""


PORTS = range(20_000, 32_000)
"""Below the system's own range, from which BentoML takes two more ports."""


def free_port() -> int:
    """Return a port that is free at this moment."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll a condition that another process changes."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {PATIENCE_S} s")
        time.sleep(0.02)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


class Server:
    """`bentoml serve` in a process group of its own; a context manager that stops it.

    Args:
        target: The tag of a bento or an option; "" serves the directory of `place`.
        environment: Further environment variables.
        settings: Set as CLASSIFIER_<NAME>; by default one worker in the embedded topology.
    """

    def __init__(
        self,
        place: Place,
        *,
        target: str = "",
        port: int | None = None,
        environment: dict[str, str] | None = None,
        **settings: object,
    ) -> None:
        if settings.get("topology") != "runner":
            settings.setdefault("workers", 1)
        self.place = place
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.connections = contextlib.ExitStack()
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_S)
        self.log_file = place.home / f"serve-{self.port}-{time.monotonic_ns()}.log"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command(self.port, target),
                cwd=place.directory,
                env=place.environment(**settings) | (environment or {}),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> "Server":
        return self.ready()

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.connections.close()
        if self.process.poll() is None:
            self.stop()

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def ready(self) -> "Server":
        """Wait until /readyz answers 200."""
        try:
            wait_until(self._is_ready, "readiness")
        except BaseException:
            self.kill()
            raise
        return self

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"exit status {self.process.returncode} at the start:\n{self.log}")
        return is_ready(self.client)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Send a signal to the supervisor, wait and return the exit status."""
        self.process.send_signal(signal_number)
        return self.wait()

    def interrupt(self) -> int:
        """Send SIGINT to every process of the group, as Ctrl-C in a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        self.client.close()
        self.connections.close()
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    def workers(self, service: str = "") -> list[int]:
        """Return the process ids of the workers, perhaps of one BentoML service only."""
        ids = []
        for worker in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):  # ended meanwhile
                if not service or service in worker.cmdline():
                    ids.append(worker.pid)
        return ids

    def card(self) -> Any:
        """Return the answer of /model; retries 503, which a stalled machine may cause."""
        answers = iter(lambda: self.client.get("/model"), None)
        return next(answer for answer in answers if answer.status_code == 200).json()

    def metrics(self) -> dict[str, float]:
        """Return series, with their labels, and values of /metrics."""
        lines = self.client.get("/metrics").text.splitlines()
        pairs = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in pairs}

    def wait_for_in_flight(self, count: int) -> None:
        wait_until(
            lambda: self.metrics().get("classifier_in_flight", 0) == count,
            f"{count} requests in flight",
        )

    def connect(self) -> socket.socket:
        """Open a connection; `__exit__` closes it."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        return self.connections.enter_context(connection)

    def raw(self, data: bytes) -> bytes:
        """Send bytes with `Connection: close` and return everything received."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_to_end(connection)


def upload(data: bytes, query: str = "") -> bytes:
    """Return a request to classify an image."""
    head = f"POST /classify{query} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def read_to_end(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def command(port: int, target: str = "") -> list[str]:
    words = [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]
    # Idle connections of a slow test stay open.
    return [*words, "--timeout-keep-alive", "600", *([target] if target else [])]


def refused_start(place: Place, **settings: Any) -> str:
    """Start a server that must refuse to start; return its only line besides BentoML's own."""
    server = Server(place, **settings)
    status = server.wait()
    server.client.close()
    assert status == 1, server.log
    assert "Traceback" not in server.log
    assert not is_open(server.port)
    lines = [line for line in server.log.splitlines() if line.strip()]
    ours = [line for line in lines if not re.match(r"\d{4}-\d\d-\d\dT[\d:+-]+ \[INFO\] ", line)]
    assert len(ours) == 1, server.log
    return ours[0]


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
