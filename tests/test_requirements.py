"""The locked requirements: complete, hashed, the same versions everywhere, no torch in serving."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.imports import ROOT

REQUIREMENTS = ROOT / "requirements"
LOCKS = ("serve-cpu", "serve-gpu", "dev")


def normalised(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name: str) -> dict[str, dict[str, list[str]]]:
    """Hashes of each requirement of a lock by version, of which markers may choose."""
    text = (REQUIREMENTS / f"{name}.txt").read_text().replace("\\\n", " ")
    found: dict[str, dict[str, list[str]]] = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[\w,]+\])?==([^\s;]+)", line)
        assert match, line
        hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", line)
        found.setdefault(normalised(match[1]), {})[match[2]] = hashes
    return found


def named_in(path: Path) -> set[str]:
    """Names a person wrote into a .in file, those of the files it refers to included."""
    names = set()
    for line in path.read_text().splitlines():
        wanted = line.partition("#")[0].strip()
        if wanted.startswith("-r "):
            names |= named_in(path.parent / wanted.removeprefix("-r "))
        elif wanted:
            names.add(normalised(re.split(r"[\[=<>!~; ]", wanted)[0]))
    return names


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_requirement_has_a_version_and_hashes(name: str) -> None:
    requirements = locked(name)

    assert len(requirements) > 20
    assert all(hashes for versions in requirements.values() for hashes in versions.values())


@pytest.mark.parametrize("name", LOCKS)
def test_everything_asked_for_is_locked(name: str) -> None:
    assert named_in(REQUIREMENTS / f"{name}.in") <= locked(name).keys()


@pytest.mark.parametrize("name", LOCKS)
def test_locks_name_no_index_and_no_file(name: str) -> None:
    text = (REQUIREMENTS / f"{name}.txt").read_text()

    assert not re.search(r"^\s*(-i|--index|--extra-index|--find-links)|://|^\S+ @ ", text, re.M)


def test_serving_on_a_cpu_needs_no_torch_and_nothing_of_cuda() -> None:
    names = locked("serve-cpu").keys()

    assert not names & {"torch", "torchvision", "nncf", "onnx", "triton"}
    # BentoML asks for nvidia-ml-py, a small file of Python that looks for GPUs.
    assert {name for name in names if name.startswith(("nvidia-", "cuda-"))} <= {"nvidia-ml-py"}


@pytest.mark.parametrize("name", LOCKS)
def test_uvloop_stays_out(name: str) -> None:
    # With it BentoML 1.4.39 fetches a URL that is given in place of a file.
    assert "uvloop" not in locked(name)


@pytest.mark.parametrize("name", ["serve-cpu", "serve-gpu"])
def test_what_serves_has_the_versions_that_were_tested(name: str) -> None:
    tested = locked("dev")

    for requirement, versions in locked(name).items():
        assert versions.keys() == tested.get(requirement, versions).keys(), requirement
    assert locked("serve-cpu").keys() <= tested.keys()


def test_the_python_versions_are_those_of_the_makefile() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["requires-python"] == ">=3.11,<3.14"
    assert "(3, 11) <= v < (3, 14)" in (ROOT / "Makefile").read_text()
