"""The computer and the commit a session is measured on."""

# psutil ships no types.
# mypy: disable-error-code="import-untyped"

import os
import platform
import subprocess
from pathlib import Path

import psutil

from benchmarks.record import Machine

TELLING_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
)


def this_machine() -> Machine:
    """What Linux says of the processor and the memory."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    flags = set(facts.get("flags", "").split())
    family = " ".join(f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts)
    return Machine(
        cpu_model=f"{facts.get('model name', platform.machine())} ({family})",
        cpu_count=os.cpu_count() or 0,
        cpu_features=tuple(feature for feature in TELLING_FEATURES if feature in flags),
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        kernel=platform.release(),
        affinity=tuple(sorted(os.sched_getaffinity(0))),
    )


def this_commit(root: Path) -> str:
    """Short commit, with "-dirty" where tracked files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    dirty = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=10", "HEAD") + ("-dirty" if dirty else "")


def commit_if_known(root: Path) -> str | None:
    """The commit; None where the program is not in a git checkout, or git is missing."""
    try:
        return this_commit(root)
    except (OSError, subprocess.CalledProcessError):
        return None
