"""A cache of plans measured on this machine, for later starts."""

import contextlib
import fcntl
import os
from collections.abc import Callable
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


def cached_plan(path: Path, measure: Callable[[], Plan]) -> Plan:
    """Return the plan in a file; measure and write it if there is none.

    Processes that start together measure one after the other; all but the first find the file. If
    it cannot be written, each start measures.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # then processes may measure at the same time
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(path.with_suffix(".lock").open("ab"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(OSError, ValidationError):  # no file, or written in part
            return Plan.model_validate_json(path.read_bytes())
        plan = measure()
        try:
            path.write_text(plan.model_dump_json())
        except OSError as error:
            logger.info("the measured plan is not cached: %s", error)
        return plan
