"""Fixtures of all tests: isolated model stores, the imported digits example, shared servers."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.nodeid import NodeId
from hypothesis import HealthCheck, settings

from tests.imports import isolated_store, made_once
from tests.service.places import NewPlace, Place, copy_checkout, import_digits
from tests.service.server import PATIENT, Server

# Before anything imports BentoML: tests must not touch the user's store.
os.environ["BENTOML_HOME"] = tempfile.mkdtemp(prefix="image-classifier-tests-")
atexit.register(shutil.rmtree, os.environ["BENTOML_HOME"], ignore_errors=True)
os.environ["BENTOML_DO_NOT_TRACK"] = "true"
# Nor the user's cache of plans.
os.environ["XDG_CACHE_HOME"] = os.environ["BENTOML_HOME"]

# The same examples everywhere, however slow the machine.
settings.register_profile(
    "same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")

SERVERS = {"embedded", "through_runner", "either", "one_place"}
"""Fixtures of shared servers."""


@pytest.hookimpl(tryfirst=True)  # before tests are selected by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests with servers as slow; one process runs all tests of the shared servers."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & {*SERVERS, "new_place"}:
            item.add_marker(pytest.mark.slow)
        if fixtures & SERVERS:
            item.add_marker(pytest.mark.xdist_group("servers"))
        # pytest-xdist 3.8 stores groups where pytest 9.2 does not look (pytest-xdist issue 1386);
        # every process would start every server.
        group = item.get_closest_marker("xdist_group")
        if group and config.getoption("loadgroup", default=False):
            item._id = NodeId.parse(f"{item.nodeid}@{group.args[0]}")


@pytest.fixture(scope="session")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A read-only copy of the checkout with the digits model, shared by all test processes."""

    def make(root: Path) -> None:
        copy_checkout(root / "checkout")
        import_digits(Place(directory=root / "checkout", home=root / "home"))

    root = made_once("imported", tmp_path_factory, make)
    return Place(directory=root / "checkout", home=root / "home")


@pytest.fixture(scope="session")
def new_place(imported: Place, tmp_path_factory: pytest.TempPathFactory) -> NewPlace:
    """A function that returns the shared directory with a new store."""

    def make() -> Place:
        return imported.with_own_store(tmp_path_factory.mktemp("home"))

    return make


@pytest.fixture(scope="session")
def embedded(new_place: NewPlace) -> Iterator[Server]:
    """A shared server in the embedded topology; tests must not stop it."""
    with Server(new_place(), **PATIENT) as server:
        yield server
    assert server.process.returncode == 0, server.log


@pytest.fixture(scope="session")
def through_runner(new_place: NewPlace) -> Iterator[Server]:
    """A shared server in the runner topology; tests must not stop it."""
    with Server(new_place(), topology="runner", **PATIENT) as server:
        yield server
    assert server.process.returncode == 0, server.log


@pytest.fixture(params=["embedded", "through_runner"])
def either(request: pytest.FixtureRequest) -> Server:
    """Both shared servers in turn."""
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="session")
def digits_folder(imported: Place) -> Path:
    """The imported digits artifact, read-only."""
    return imported.artifact


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """An empty model store for one test, as a BENTOML_HOME."""
    with isolated_store(tmp_path / "bentoml") as home:
        yield home
