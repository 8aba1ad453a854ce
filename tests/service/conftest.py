"""Server processes: two that all reading tests share, and a way to start others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.places import NewPlace as NewPlace
from tests.service.server import Server

PATIENT: dict[str, Any] = {"max_wait_ms": 50_000, "overload_wait_ms": 50_000, "timeout_ms": 50_000}
"""No admission by estimated wait: a busy machine would rightly refuse some requests."""


@pytest.fixture(scope="session")
def embedded(new_place: NewPlace) -> Iterator[Server]:
    """A server in the embedded topology: ask it anything, stop it never."""
    with Server(new_place(), **PATIENT) as server:
        yield server
    assert server.process.returncode == 0, server.log


@pytest.fixture(scope="session")
def through_runner(new_place: NewPlace) -> Iterator[Server]:
    """A server in the runner topology: ask it anything, stop it never."""
    with Server(new_place(), topology="runner", **PATIENT) as server:
        yield server
    assert server.process.returncode == 0, server.log


@pytest.fixture(params=["embedded", "runner"])
def either(request: pytest.FixtureRequest) -> Server:
    """Both of them, one after the other."""
    name = "embedded" if request.param == "embedded" else "through_runner"
    server: Server = request.getfixturevalue(name)
    return server


@pytest.fixture
def empty_directory(tmp_path: Path) -> Path:
    """A working directory that holds nothing."""
    path = tmp_path / "elsewhere"
    path.mkdir()
    return path
