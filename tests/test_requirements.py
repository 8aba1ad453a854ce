"""The requirement locks: complete, hashed, the same versions everywhere, no torch on a CPU."""

import re
import tomllib

import pytest
from packaging.utils import canonicalize_name

from importer.serving_requirements import read_requirements
from tests.imports import ROOT
from tools.environment import PYTHONS

FOLDER = ROOT / "deploy" / "requirements"
LOCKS = ("serve-cpu", "serve-gpu", "dev", "validate")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ASKED_FOR = {
    "serve-cpu": PROJECT["project"]["dependencies"],
    "serve-gpu": PROJECT["project"]["optional-dependencies"]["gpu"],
    "dev": PROJECT["dependency-groups"]["dev"],
    "validate": PROJECT["dependency-groups"]["validate"],
}


def locked(name: str) -> dict[str, set[str]]:
    """Versions of each package of a lock; markers may choose among several."""
    found: dict[str, set[str]] = {}
    for pin in read_requirements(FOLDER / f"{name}.txt"):
        found.setdefault(pin.name, set()).add(pin.version)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_with_hashes_what_pyproject_asks_for(name: str) -> None:
    pins = read_requirements(FOLDER / f"{name}.txt")  # refuses lines without a version or a hash

    words = [re.split(r"[\[=<>!~; ]", text) for text in ASKED_FOR[name]]
    assert {canonicalize_name(one[0]) for one in words} <= {pin.name for pin in pins}
    exact = {text for text in ASKED_FOR[name] if "==" in text}
    assert exact <= {f"{pin.name}=={pin.version}" for pin in pins}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_index_and_no_address(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text()

    assert not re.search(r"^\s*(-i|--index|--extra-index|--find-links)|://|^\S+ @ ", text, re.M)


def test_serving_on_a_cpu_needs_no_torch_and_nothing_of_cuda() -> None:
    names = locked("serve-cpu").keys()

    assert not names & {"torch", "torchvision", "nncf", "onnx", "triton"}
    # BentoML asks for nvidia-ml-py, a small Python file that looks for GPUs.
    assert {name for name in names if name.startswith(("nvidia-", "cuda-"))} <= {"nvidia-ml-py"}


@pytest.mark.parametrize("name", LOCKS)
def test_uvloop_stays_out(name: str) -> None:
    # With it BentoML 1.4.40 fetches a URL that is sent in place of a file.
    assert "uvloop" not in locked(name)


@pytest.mark.parametrize("name", ["serve-cpu", "serve-gpu"])
def test_the_serving_locks_have_the_versions_that_the_tests_ran_with(name: str) -> None:
    tested = locked("dev")

    assert {package: tested.get(package) for package in locked(name)} == locked(name)


def test_the_supported_pythons_are_those_of_pyproject() -> None:
    lowest, end = (f"{major}.{minor}" for major, minor in PYTHONS)

    assert PROJECT["project"]["requires-python"] == f">={lowest},<{end}"
