"""Podman's configuration for a trial: a store of its own, limits a container may have here."""

import os
import resource
from pathlib import Path

PID_MAX = Path("/proc/sys/kernel/pid_max")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_CONFIGS = (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf")


def write_configuration(folder: Path) -> dict[str, str]:
    """Write the files below `folder`; returns the variables that make podman read them.

    `network = host` and cgroupfs: a machine without systemd and without a bridge can run it.
    Building borrows the certificates and pip's configuration of the machine, by mounts that
    leave nothing in the image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    storage = folder / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/store"\nrunroot = "{folder}/run"\n'
    )
    mounts = [f'"{CERTIFICATES}:{CERTIFICATES}:ro"'] if CERTIFICATES.is_file() else []
    pip = folder / "pip.conf"
    pip.write_text(_pip_configuration())
    mounts.append(f'"{pip}:/etc/pip.conf:ro"')
    (folder / "build.conf").write_text(_containers_conf(f"volumes = [{', '.join(mounts)}]\n"))
    (folder / "run.conf").write_text(_containers_conf(""))
    return {
        "CONTAINERS_STORAGE_CONF": str(storage),
        "CONTAINERS_CONF": str(folder / "run.conf"),
    }


def _containers_conf(volumes: str) -> str:
    files = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    processes = int(PID_MAX.read_text()) if hard < 0 else min(hard, int(PID_MAX.read_text()))
    return (
        '[containers]\nnetns = "host"\nlog_driver = "k8s-file"\n'
        f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n{volumes}'
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )


def _pip_configuration() -> str:
    given = [Path(os.environ["PIP_CONFIG_FILE"])] if "PIP_CONFIG_FILE" in os.environ else []
    lines = [
        line
        for path in (*given, *PIP_CONFIGS)
        if path.is_file()
        for line in path.read_text().splitlines()
        if line.partition("=")[0].strip() in ("index-url", "extra-index-url")
    ]
    return "\n".join(["[global]", f"cert = {CERTIFICATES}", *lines]) + "\n"
