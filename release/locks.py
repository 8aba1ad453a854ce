"""The requirement locks: parsed, and checked for drift."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release.errors import ReleaseError

SERVING = ("serve-cpu", "serve-gpu")
DEVELOPMENT = "dev"
NEVER_IN_CPU = ("torch", "torchvision", "triton", "uvloop")
"""torch: serving on a CPU has no use for it. uvloop: BentoML would fetch URLs with it."""
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """One line of a lock.

    Attributes:
        marker: Environments it is for; empty means all.
        sha256: Digests of the files that may be installed, sorted.
    """

    name: str
    version: str
    marker: str
    sha256: tuple[str, ...]


def read_requirements(path: Path) -> tuple[Pinned, ...]:
    """Read a lock.

    Raises:
        ReleaseError: It is missing, or a line is not pinned or not hashed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}; run `make lock`") from error
    logical = text.replace("\\\n", " ").splitlines()
    lines = [line for line in logical if line.strip() and not line.lstrip().startswith("#")]
    return tuple(_pinned(line, path) for line in lines)


def _pinned(line: str, path: Path) -> Pinned:
    requirement = Requirement(line.partition("--hash")[0])
    specifiers = list(requirement.specifier)
    hashes = tuple(sorted(_HASH.findall(line)))
    if len(specifiers) != 1 or specifiers[0].operator != "==" or not hashes:
        raise ReleaseError(
            f"{path}: {requirement} is not pinned with a hash; run `make lock` and edit nothing"
        )
    return Pinned(
        name=canonicalize_name(requirement.name),
        version=specifiers[0].version,
        marker=str(requirement.marker or ""),
        sha256=hashes,
    )


def check_locks(folder: Path) -> int:
    """Check that the locks fit their inputs and one another, without the network.

    Returns:
        The number of pinned lines.

    Raises:
        ReleaseError: A lock lacks what its input asks for, pins another version than the
            development lock, which the tests ran with, or holds what must stay out.
    """
    locks = {name: read_requirements(folder / f"{name}.txt") for name in (*SERVING, DEVELOPMENT)}
    for name, pins in locks.items():
        for requirement in _asked_for(folder / f"{name}.in"):
            _check_satisfied(requirement, pins, folder / f"{name}.txt")
    for name in SERVING:
        _check_same_versions(locks[name], locks[DEVELOPMENT], folder / f"{name}.txt")
    present = {pin.name for pin in locks["serve-cpu"]}
    if strays := sorted(present & set(NEVER_IN_CPU)):
        raise ReleaseError(
            f"{folder / 'serve-cpu.txt'}: holds {', '.join(strays)}, which must stay out; "
            "remove what asks for it from serve-cpu.in and run `make lock`"
        )
    return sum(len(pins) for pins in locks.values())


def _asked_for(path: Path) -> Iterable[Requirement]:
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            yield from _asked_for(path.parent / text.removeprefix("-r ").strip())
        elif text:
            yield Requirement(text)


def _check_satisfied(requirement: Requirement, pins: tuple[Pinned, ...], path: Path) -> None:
    name = canonicalize_name(requirement.name)
    versions = [pin.version for pin in pins if pin.name == name]
    if not versions or not all(requirement.specifier.contains(one, True) for one in versions):
        found = ", ".join(versions) or "nothing"
        raise ReleaseError(f"{path}: has {found} for {requirement}; run `make lock`")


def _check_same_versions(
    serving: tuple[Pinned, ...], development: tuple[Pinned, ...], path: Path
) -> None:
    tested = {(pin.name, pin.version) for pin in development}
    for pin in serving:
        if pin.marker and not _can_be_ours(pin.marker):
            continue
        if (pin.name, pin.version) not in tested:
            raise ReleaseError(
                f"{path}: pins {pin.name} {pin.version}, dev.txt does not; run `make lock`"
            )


def _can_be_ours(marker: str) -> bool:
    """Whether a marker holds on Linux x86-64 for one of the Pythons the project runs on."""
    base = {"platform_machine": "x86_64", "sys_platform": "linux", "platform_system": "Linux"}
    return any(
        Marker(marker).evaluate(
            {
                **base,
                "implementation_name": "cpython",
                "platform_python_implementation": "CPython",
                "python_version": version,
                "python_full_version": f"{version}.1",
            }
        )
        for version in ("3.11", "3.12", "3.13")
    )
