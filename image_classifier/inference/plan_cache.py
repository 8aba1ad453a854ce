"""Keeps plans that were measured on this machine, for the next start."""

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
    """Return where the plan of an engine is kept: its name is a digest of what it depends on.

    The folder is `image-classifier/plans` in $XDG_CACHE_HOME, or in ~/.cache.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home: nothing can be kept
        home = os.devnull
    key = f"{identity_sha256} {machine.model_dump_json()} {engine} {budget_ms:g}"
    return Path(home) / "image-classifier" / "plans" / f"{sha256_bytes(key.encode())}.json"


@contextlib.contextmanager
def one_process_at_a_time(plan: Path) -> Iterator[None]:
    """Wait until no other process is in this block, for a plan that is to be kept in a file.

    Where nothing can be written beside it, or the file system has no locks, there is no waiting.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            plan.parent.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(plan.with_suffix(".lock").open("ab"))
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def read_plan(path: Path) -> Plan | None:
    """Return the plan kept in a file, or None where there is none that can be read."""
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def keep_plan(path: Path, plan: Plan) -> None:
    """Replace the file in one step; where that is not allowed the next start measures again."""
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(plan.model_dump_json())
        temporary.replace(path)
    except OSError as error:
        logger.info("the measured plan is not kept: %s", error)
        with contextlib.suppress(OSError):
            temporary.unlink()
