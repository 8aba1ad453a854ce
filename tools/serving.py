"""Starts, measures and stops a server under test, a tree of processes."""

import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from image_classifier.settings import PREFIX
from tools.load import LOOPBACK

ROOT = Path(__file__).resolve().parents[1]
PORTS = range(20_000, 32_000)
"""Below the system's own range, from which BentoML takes two more ports."""
POLL_S = 0.02
STOP_WITHIN_S = 15.0

PORT = "{port}"
"""Placeholder for the port in a command."""
ADDRESS = ("--host", LOOPBACK, "--port", PORT)
PRODUCT_COMMAND = (sys.executable, "-m", "bentoml", "serve", "service:ImageClassifier", *ADDRESS)
NEVER_REFUSE = {f"{PREFIX}MAX_WAIT_MS": "5000", f"{PREFIX}OVERLOAD_WAIT_MS": "5000"}
"""Settings with which this project queues all requests of a closed loop, as its peers do."""


class ServerFailed(Exception):
    """The server did not start, or did not answer correctly."""


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A started server.

    Attributes:
        process: Root of the server's process tree.
        ready_s: From process start to the first correct answer.
    """

    process: psutil.Process
    port: int
    ready_s: float

    def _total(self, measure: Callable[[psutil.Process], float]) -> float:
        total = 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (self.process, *self.process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += measure(process)
        return total

    def memory_mb(self) -> float:
        """Return the proportional set size of the tree; shared pages count once."""
        return round(self._total(lambda process: process.memory_full_info().pss) / 2**20, 1)

    def cpu_s(self) -> float:
        """Return the processor seconds used by the live processes of the tree."""
        return self._total(lambda process: sum(process.cpu_times()[:2]))  # user and system


def free_port() -> int:
    """Return a port that is free at this moment."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


def server_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's environment without its virtual environment and settings, plus these.

    Servers may cache bytecode, as in production, so the first start is slower.
    """
    removed = {"VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in removed and not name.startswith(PREFIX)
    }
    fixed = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "BENTOML_DO_NOT_TRACK": "True"}
    return {**inherited, **fixed, **variables}


@contextlib.contextmanager
def running(
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log_path: Path,
    probe: Callable[[int], str],
    ready_within_s: float = 120.0,
    directory: Path = ROOT,
) -> Iterator[RunningServer]:
    """Start a server on a free port, wait for its first correct answer, stop it at the end.

    Args:
        name: For messages.
        command: With `PORT` instead of the port.
        environment: See `server_environment`.
        log_path: File for the server's output.
        probe: Sends a request to a port; returns what was wrong with the answer, "" for nothing.

    Raises:
        ServerFailed: The server ended, or gave no correct answer in time.
    """
    port = free_port()
    log_path.parent.mkdir(parents=True, exist_ok=True)
    started_s = time.perf_counter()
    with log_path.open("wb") as log:
        popen = subprocess.Popen(
            [word.replace(PORT, str(port)) for word in command],
            cwd=directory,
            env=dict(environment),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    process = psutil.Process(popen.pid)
    try:
        problem = "no answer"
        while problem:
            if popen.poll() is not None:
                raise ServerFailed(
                    f"{name}: ended with {popen.returncode} while starting; see {log_path}"
                )
            if time.perf_counter() - started_s > ready_within_s:
                raise ServerFailed(
                    f"{name}: no correct answer within {ready_within_s:g} s, the last was "
                    f"{problem}; see {log_path}"
                )
            try:
                problem = probe(port)
            except OSError as error:
                problem = type(error).__name__
            time.sleep(POLL_S if problem else 0)
        ready_s = round(time.perf_counter() - started_s, 3)
        yield RunningServer(process=process, port=port, ready_s=ready_s)
    finally:
        _stop(popen, process)


def ask(port: int, request: bytes, timeout_s: float = 10) -> tuple[int, bytes]:
    """Send a request on a new connection; return status and body.

    Raises:
        OSError: No connection, or nothing received for `timeout_s`.
    """
    with socket.create_connection((LOOPBACK, port), timeout=timeout_s) as connection:
        connection.sendall(request)
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error


def expects_ok(request: bytes, timeout_s: float = 10) -> Callable[[int], str]:
    """Return a probe for `running` that takes every answer with status 200 as correct."""

    def probe(port: int) -> str:
        status, body = ask(port, request, timeout_s)
        return "" if status == 200 else f"status {status}: {body[:160].decode(errors='replace')}"

    return probe


def http_request(
    path: str, headers: Mapping[str, str], body: bytes, *, method: str = "POST"
) -> bytes:
    """Return a complete HTTP/1.1 request with Host and Content-Length."""
    headers = {"Host": LOOPBACK, "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def _stop(popen: subprocess.Popen[bytes], process: psutil.Process) -> None:
    """Send SIGTERM to the server, then SIGKILL to the rest of its tree after the time limit."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = process.children(recursive=True)
        popen.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            popen.wait(STOP_WITHIN_S)
        _, alive = psutil.wait_procs([process, *children], timeout=2)
        for each in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    popen.wait(STOP_WITHIN_S)
