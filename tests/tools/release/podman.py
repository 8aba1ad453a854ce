"""Podman for the image tests, with its own store, base images and locked-down containers."""

import json
import os
import resource
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.imports import PATIENCE_S
from tests.programs import run_program
from tests.service.server import free_port, is_ready, wait_until

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_CONFIGS = (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf")
DEBIAN_SOURCES = "/etc/apt/sources.list.d/debian.sources"
LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--user", "12345:12345"),
    *("--security-opt", "no-new-privileges", "--memory", "1g", "--pids-limit", "256"),
)


def podman(*arguments: str) -> str:
    done = run_program("podman", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def inspect(name: str, *, kind: str = "container") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(podman(kind, "inspect", name))[0]
    return found


def write_configuration(folder: Path) -> None:
    """Write storage.conf, run.conf and build.conf below `folder`.

    They need neither systemd nor a network bridge. Builds also mount the certificates and the pip
    configuration of this machine, which leaves nothing in the image.
    """
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/store"\nrunroot = "{folder}/run"\n'
    )
    lines = ["[global]"]
    for path in (*PIP_CONFIGS, Path(os.environ.get("PIP_CONFIG_FILE") or os.devnull)):
        text = path.read_text() if path.is_file() else ""
        lines += [
            line
            for line in text.splitlines()
            if line.partition("=")[0].strip() in ("index-url", "extra-index-url")
        ]
    mounts = [f'"{folder}/pip.conf:/etc/pip.conf:ro"']
    if CERTIFICATES.is_file():
        lines.append(f"cert = {CERTIFICATES}")
        mounts.append(f'"{CERTIFICATES}:{CERTIFICATES}:ro"')
    (folder / "pip.conf").write_text("\n".join(lines) + "\n")
    files = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    processes = int(Path("/proc/sys/kernel/pid_max").read_text())
    if (hard := resource.getrlimit(resource.RLIMIT_NPROC)[1]) >= 0:
        processes = min(hard, processes)
    for name, volumes in {
        "run.conf": "",
        "build.conf": f"volumes = [{', '.join(mounts)}]\n",
    }.items():
        (folder / name).write_text(
            '[containers]\nnetns = "host"\nlog_driver = "k8s-file"\n'
            f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'
            f'{volumes}[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n'
            'events_logger = "file"\n'
        )


def debian_python(folder: Path, name: str, variant: str, packages: str) -> str:
    """Build an image of Debian's Python 3.11, instead of one from a registry; return its name."""
    tar = folder / f"{name}.tar"
    unwanted = (
        "usr/lib/python3*/EXTERNALLY-MANAGED usr/share/perl usr/lib/*/perl usr/lib/*/libperl.so*"
    )
    subprocess.run(
        [
            *("mmdebstrap", "--mode=root", f"--variant={variant}", f"--include={packages}"),
            *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("man", "doc", "locale")),
            f'--customize-hook=cd "$1"; rm -rf {unwanted}; ln -sf python3 usr/bin/python',
            *("bookworm", str(tar), DEBIAN_SOURCES),
        ],
        check=True,
        capture_output=True,
    )
    podman("import", "--quiet", str(tar), f"localhost/{name}:3.11")
    return f"localhost/{name}:3.11"


class Container:
    """A running container; a context manager that waits for readiness and removes it."""

    def __init__(self, image: str, **settings: object) -> None:
        self.port = free_port()
        variables = {f"CLASSIFIER_{name.upper()}": value for name, value in settings.items()}
        words = [f"--env={name}={value}" for name, value in variables.items()]
        self.name = podman(
            *("run", "--detach", "--network", "host", f"--env=BENTOML_PORT={self.port}"),
            *(*LOCKED_DOWN, *words, image),
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE_S)

    def __enter__(self) -> "Container":
        def ready() -> bool:
            if not inspect(self.name)["State"]["Running"]:
                logs = run_program("podman", "logs", self.name)
                raise RuntimeError(f"not ready: {logs.stdout}{logs.stderr}")
            return is_ready(self.client)

        try:
            wait_until(ready, "readiness")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        podman("rm", "--force", self.name)

    def run(self, *command: str) -> str:
        return podman("exec", self.name, *command)

    def send(self, data: bytes) -> socket.socket:
        """Send bytes on a new connection and return it."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        connection.sendall(data)
        return connection
