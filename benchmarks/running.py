"""A server under test as a running process tree: start, readiness, cost, end."""

# psutil ships no types.
# mypy: disable-error-code="import-untyped"

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.catalogue import Server
from benchmarks.exchanges import LOOPBACK, Target
from benchmarks.peers.ports import free_port
from benchmarks.workload import WORKLOAD_VARIABLE, read_workload
from image_classifier.settings import PREFIX
from preprocessing.errors import OperatorError

ROOT = Path(__file__).resolve().parents[1]
POLL_S = 0.02
PATIENT_MS = 5_000
"""More than the wait of a closed loop: 64 requests at 50 ms each are 3,200."""
STOP_WITHIN_S = 15.0


class ServerFailed(OperatorError):
    """The server did not start, or did not answer correctly."""


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A started server.

    Attributes:
        process: The process that was started; its children belong to the server too.
        port: It listens on.
        ready_s: From process start to the first correct answer.
    """

    process: psutil.Process
    port: int
    ready_s: float

    def tree(self) -> list[psutil.Process]:
        """The server's processes that are alive."""
        return [self.process, *self.process.children(recursive=True)]

    def memory_mb(self) -> float:
        """Proportional set size of the tree: shared pages are counted once."""
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return round(total / 2**20, 1)

    def cpu_s(self) -> float:
        """Processor seconds the live processes of the tree used so far."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total


@contextlib.contextmanager
def running(
    server: Server, python: str, *, environment: Mapping[str, str], log_path: Path, probe: Target
) -> Iterator[RunningServer]:
    """Start the server, wait for its first correct answer, stop it at the end.

    Args:
        server: What to start.
        python: Of its environment.
        environment: Of the process; see `workload_environment`.
        log_path: Takes what it prints.
        probe: Its first request decides readiness; the port in it is ignored.

    Raises:
        ServerFailed: No correct answer within `server.ready_within_s`.
    """
    port = free_port()
    log_path.parent.mkdir(parents=True, exist_ok=True)
    started_s = time.perf_counter()
    with log_path.open("wb") as log:
        popen = subprocess.Popen(
            server.command(python, port),
            cwd=ROOT,
            env=dict(environment),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    process = psutil.Process(popen.pid)
    try:
        _wait_until_right(server, popen, port, probe)
        yield RunningServer(
            process=process, port=port, ready_s=round(time.perf_counter() - started_s, 3)
        )
    finally:
        stop(popen, process)


def workload_environment(
    server: Server, workload_path: Path, *, settings: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What a server of a workload is started with; `settings` are CLASSIFIER_* for this project."""
    workload = read_workload(workload_path)
    variables = {
        **server.variables,
        WORKLOAD_VARIABLE: str(workload_path),
        "BENTOML_HOME": workload.store,
        **({"CLASSIFIER_LOCK": workload.lock} if server.environment is None else {}),
        **(settings or {}),
    }
    return clean_environment(
        variables, without=tuple(name for name in os.environ if name.startswith(PREFIX))
    )


def budget_setting(budget_ms: float) -> dict[str, str]:
    """The setting by which this project is told its budget."""
    return {f"{PREFIX}BUDGET_MS": f"{budget_ms:g}"}


def patient_setting() -> dict[str, str]:
    """The settings with which this project refuses nothing of a closed loop, as its peers do."""
    return dict.fromkeys((f"{PREFIX}MAX_WAIT_MS", f"{PREFIX}OVERLOAD_WAIT_MS"), str(PATIENT_MS))


def clean_environment(
    variables: Mapping[str, str], *, without: tuple[str, ...] = ()
) -> dict[str, str]:
    """The caller's environment without its virtual environment, plus the variables.

    Servers may cache their bytecode, as they can in production: the first start is the slower one.
    """
    removed = {"VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", *without}
    inherited = {name: value for name, value in os.environ.items() if name not in removed}
    return {**inherited, **variables, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def _wait_until_right(
    server: Server, popen: subprocess.Popen[bytes], port: int, probe: Target
) -> None:
    deadline_s = time.monotonic() + server.ready_within_s
    last = "no answer"
    while time.monotonic() < deadline_s:
        if popen.poll() is not None:
            raise ServerFailed(f"{server.name}: ended with {popen.returncode} while starting")
        try:
            status, body = ask(port, probe.requests[0])
        except OSError as error:
            last = type(error).__name__
        else:
            last = f"status {status}: {body[:80]!r}"
            with contextlib.suppress(LookupError, TypeError, ValueError):
                if status == http.client.OK and probe.read_class(body) in probe.accepted[0]:
                    return
        time.sleep(POLL_S)
    raise ServerFailed(
        f"{server.name}: no correct answer within {server.ready_within_s:g} s; the last was {last}"
    )


def ask(port: int, request: bytes) -> tuple[int, bytes]:
    """Send one prebuilt request on a connection of its own; OSError where that fails."""
    with socket.create_connection((LOOPBACK, port), timeout=10) as connection:
        connection.sendall(request)
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error


def stop(popen: subprocess.Popen[bytes], process: psutil.Process) -> None:
    """SIGTERM to the server, SIGKILL to what is left of its tree after the time limit."""
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
