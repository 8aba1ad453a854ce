"""The requirement locks: complete, hashed, the same versions everywhere, no torch on a CPU."""

import re
import tomllib

import pytest
from packaging.utils import canonicalize_name

from importer.serving_requirements import read_requirements
from tests.imports import ROOT

FOLDER = ROOT / "deploy" / "requirements"
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
    for pin in read_requirements(FOLDER / f"{name}.txt"):  # refuses lines without version or hash
        found.setdefault(pin.name, set()).add(pin.version)
    return found


@pytest.mark.parametrize("name", ASKED_FOR)
def test_a_lock_pins_what_pyproject_asks_for_and_names_no_address(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text()

    pins = locked(name)
    asked = {canonicalize_name(re.split(r"[\[=<>!~; ]", one)[0]) for one in ASKED_FOR[name]}
    exact = [one.split("==") for one in ASKED_FOR[name] if "==" in one]
    assert asked <= pins.keys()
    assert all(version in pins[package] for package, version in exact)
    assert not re.search(r"^\s*(-i|--index|--extra-index|--find-links)|://|^\S+ @ ", text, re.M)
    # With uvloop BentoML 1.4.40 fetches a URL that is sent in place of a file.
    assert "uvloop" not in pins


def test_serving_on_a_cpu_needs_no_torch_and_nothing_of_cuda() -> None:
    names = locked("serve-cpu").keys()

    assert not names & {"torch", "torchvision", "nncf", "onnx", "triton"}
    # BentoML asks for nvidia-ml-py, a small Python file that looks for GPUs.
    assert {name for name in names if name.startswith(("nvidia-", "cuda-"))} <= {"nvidia-ml-py"}


def test_the_serving_locks_have_the_versions_that_the_tests_ran_with() -> None:
    tested = locked("dev")
    for serving in (locked("serve-cpu"), locked("serve-gpu")):
        assert {package: tested.get(package) for package in serving} == serving


def test_the_supported_pythons_are_those_of_pyproject() -> None:
    lowest, end = re.findall(r"\((3, \d+)\)", (ROOT / "Makefile").read_text())[:2]

    wanted = f">={lowest},<{end}".replace(", ", ".")
    assert PROJECT["project"]["requires-python"] == wanted
