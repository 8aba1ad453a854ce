"""A cache of plans measured on this machine, for later starts."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from image_classifier.artifact.format import sha256_bytes
from image_classifier.artifact.record import Machine, Plan
from image_classifier.logs import logger


def cache_file(identity_sha256: str, machine: Machine, engine: str, budget_ms: float) -> Path:
    """Return the file for a plan; its name is a digest of everything the plan depends on.

    The folder is `image-classifier/plans` in $XDG_CACHE_HOME, or in ~/.cache.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # the user has no home directory: nothing can be written
        home = os.devnull
    key = f"{identity_sha256} {machine.model_dump_json()} {engine} {budget_ms:g}"
    return Path(home) / "image-classifier" / "plans" / f"{sha256_bytes(key.encode())}.json"


@contextlib.contextmanager
def one_process_at_a_time(plan: Path) -> Iterator[None]:
    """Hold the lock file of a plan; do nothing if it cannot be written or locked."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            plan.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(plan.with_suffix(".lock").open("ab"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_plan(path: Path) -> Plan | None:
    """Return the plan in a file, or None if it cannot be read."""
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan atomically, if possible; otherwise the next start measures again."""
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        temporary.write_text(plan.model_dump_json())
        temporary.replace(path)
    except OSError as error:
        logger.info("the measured plan is not cached: %s", error)
        with contextlib.suppress(OSError):
            temporary.unlink()
