"""Requirement locks, and the packages that a preprocessing class finds in them."""

import importlib.metadata
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from importer.errors import ImportRefused

LOCKS = Path(__file__).resolve().parents[1] / "deploy" / "requirements"
SERVING_LOCKS = {"cpu": LOCKS / "serve-cpu.txt", "cuda": LOCKS / "serve-gpu.txt"}
"""Device → the lock of the bento that serves on it."""
SAME_MODULE = re.compile(r"^opencv-(contrib-)?python(-headless)?$")
"""Distributions that provide the module cv2."""
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """One package of a requirement lock.

    Attributes:
        marker: Environment marker (PEP 508); empty for every environment.
        sha256: Sorted digests of the installable files.
    """

    name: str
    version: str
    marker: str
    sha256: tuple[str, ...]


def read_requirements(path: Path) -> tuple[Pinned, ...]:
    """Read a requirement lock.

    Raises:
        ImportRefused: The file is missing, or a line is not pinned or has no hash.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ImportRefused(f"{path}: {error.strerror}; run `make lock`") from error
    lines = text.replace("\\\n", " ").splitlines()
    return tuple(
        _pinned(line, path) for line in lines if line.strip() and not line.lstrip().startswith("#")
    )


def _pinned(line: str, path: Path) -> Pinned:
    pin, hashes = line.partition("--hash")[0].strip(), _HASH.findall(line)
    try:
        requirement = Requirement(pin)
        (specifier,) = requirement.specifier
        if specifier.operator != "==" or not hashes:
            raise ValueError("not pinned")
    except ValueError as error:  # InvalidRequirement is one too
        raise ImportRefused(
            f"{path}: {pin!r} is not pinned with a hash; expected NAME==VERSION "
            "--hash=sha256:…, as `uv pip compile --generate-hashes` and `make lock` write it"
        ) from error
    return Pinned(
        name=canonicalize_name(requirement.name),
        version=specifier.version,
        marker=str(requirement.marker or ""),
        sha256=tuple(sorted(hashes)),
    )


def check_serving_packages(imports: Iterable[str], device: str, own_lock: Path | None) -> None:
    """Refuse a preprocessing class with packages that the bento does not have.

    Args:
        imports: Modules that the class and the files beside it import.
        device: "cpu" or "cuda".
        own_lock: The lock of this model's bento (--serving-requirements); None for the project's.
    """
    standard = SERVING_LOCKS[device]
    lock = own_lock or standard
    locked = {pin.name for pin in read_requirements(lock)}
    if missing := sorted({pin.name for pin in read_requirements(standard)} - locked):
        raise ImportRefused(
            f"{lock}: lacks {', '.join(missing[:3])} of {standard.name}, without which the service "
            "does not run; compile it together with pyproject.toml (docs/preprocessing.md, "
            "Packages)"
        )

    def normalised(names: Iterable[str]) -> set[str]:
        return {SAME_MODULE.sub("opencv-python", canonicalize_name(name)) for name in names}

    distributions = importlib.metadata.packages_distributions()
    lacking = [
        module
        for module in imports
        if module in distributions
        and normalised(locked).isdisjoint(normalised(distributions[module]))
    ]
    if lacking:
        raise ImportRefused(
            f"preprocessing: imports {', '.join(lacking)}, which the service does not install (its "
            f"lock is {lock.name}); do the same with numpy and PIL, returning an array, or write "
            "the steps as a spec, or give a lock that has it with --serving-requirements FILE "
            "(docs/preprocessing.md, Packages)"
        )
