"""A locked-down container of the image under test, and what a test asks of it."""

import json
import os
import socket
import subprocess
import time
from typing import Any

import httpx

from benchmarks.peers.ports import free_port
from tests.imports import PATIENCE_S

LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--user", "12345:12345"),
    *("--security-opt", "no-new-privileges", "--memory", "1g", "--pids-limit", "256"),
)


def podman(*arguments: str) -> str:
    done = subprocess.run(
        ["podman", *arguments], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Container:
    """A context manager: runs the image of CLASSIFIER_TEST_IMAGE, removes it at the end."""

    def __init__(self, *options: str, **settings: object) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        variables = {f"CLASSIFIER_{name.upper()}": value for name, value in settings.items()}
        words = [f"--env={name}={value}" for name, value in variables.items()]
        self.name = podman(
            *("run", "--detach", "--network", "host", f"--env=BENTOML_PORT={self.port}"),
            *(*LOCKED_DOWN, *options, *words, os.environ["CLASSIFIER_TEST_IMAGE"]),
        )
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_S)

    def __enter__(self) -> "Container":
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_ready():
            if time.monotonic() > deadline or not self.state()["Running"]:
                logs = self.logs()
                self.__exit__()
                raise RuntimeError(f"not ready: {logs}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        podman("rm", "--force", self.name)

    def is_ready(self) -> bool:
        try:
            return self.client.get("/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(podman("inspect", self.name))[0]["State"]
        return found

    def run(self, *command: str) -> str:
        return podman("exec", self.name, *command)

    def logs(self) -> str:
        done = subprocess.run(["podman", "logs", self.name], capture_output=True, text=True)
        return done.stdout + done.stderr

    def wait_for_exit(self, seconds: float) -> int:
        done = subprocess.run(
            ["podman", "wait", self.name], capture_output=True, text=True, timeout=seconds
        )
        return int(done.stdout)
