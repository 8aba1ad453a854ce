"""The requirement locks are complete, hashed and consistent, and need no torch on a CPU."""

import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from importer.serving_requirements import read_requirements
from tests.imports import ROOT
from tests.programs import run_program

FOLDER = ROOT / "deploy" / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REQUIRED = {
    "serve-cpu": PROJECT["project"]["dependencies"],
    "serve-gpu": PROJECT["project"]["optional-dependencies"]["gpu"],
    "serve-gpu-onnxruntime": PROJECT["project"]["optional-dependencies"]["gpu-onnxruntime"],
    "dev": PROJECT["dependency-groups"]["dev"],
    "validate": PROJECT["dependency-groups"]["validate"],
}


def locked(name: str) -> dict[str, set[str]]:
    """Return the versions of each package; markers may choose among several."""
    found: dict[str, set[str]] = {}
    for pin in read_requirements(FOLDER / f"{name}.txt"):  # rejects lines without version or hash
        found.setdefault(pin.name, set()).add(pin.version)
    return found


@pytest.mark.parametrize("name", REQUIRED)
def test_a_lock_pins_the_requirements_of_pyproject_and_names_no_url(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text()

    pins = locked(name)
    requirements = REQUIRED[name]
    names = {canonicalize_name(re.split(r"[\[=<>!~; ]", each)[0]) for each in requirements}
    exact = [each.split("==") for each in requirements if "==" in each]
    assert names <= pins.keys()
    assert all(version in pins[package] for package, version in exact)
    assert not re.search(r"^\s*(-i|--index|--extra-index|--find-links)|://|^\S+ @ ", text, re.M)
    # With uvloop, BentoML 1.4.40 fetches a URL that is sent instead of a file.
    assert "uvloop" not in pins


def test_serving_on_a_cpu_needs_no_torch_and_nothing_of_cuda() -> None:
    names = locked("serve-cpu").keys()

    assert not names & {"torch", "torchvision", "nncf", "onnx", "triton"}
    # BentoML requires nvidia-ml-py, a small Python file.
    assert {name for name in names if name.startswith(("nvidia-", "cuda-"))} <= {"nvidia-ml-py"}


def test_onnxruntime_for_a_gpu_stands_alone() -> None:
    assert not locked("serve-gpu-onnxruntime").keys() & {"onnxruntime", "torch"}


def test_the_serving_locks_have_the_tested_versions() -> None:
    tested = locked("dev")
    for serving in (locked("serve-cpu"), locked("serve-gpu")):
        assert {package: tested.get(package) for package in serving} == serving


def test_the_supported_pythons_are_those_of_pyproject() -> None:
    lowest, end = re.findall(r"\((3, \d+)\)", (ROOT / "Makefile").read_text())[:2]

    expected = f">={lowest},<{end}".replace(", ", ".")
    assert PROJECT["project"]["requires-python"] == expected


def test_an_environment_that_is_a_link_is_not_set_up(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(FOLDER, tmp_path / "deploy" / "requirements")
    (tmp_path / ".venv").symlink_to("elsewhere")

    done = run_program("make", "setup", f"PYTHON={sys.executable}", cwd=tmp_path)

    assert done.returncode != 0
    assert "setup: .venv is a link; remove it, or run make with VENV=elsewhere" in done.stderr
