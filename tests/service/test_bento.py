"""The bento: exactly the files that serving needs, and the answers of the checkout."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imports import PATIENCE_S, ROOT, SAMPLES
from tests.service.conftest import PATIENT, NewPlace
from tests.service.places import Place
from tests.service.server import Server

pytestmark = pytest.mark.slow
PACKED_WHOLE = ("image_classifier", "preprocessing")


@pytest.fixture(scope="module")
def built(new_place: NewPlace, imported: Place) -> tuple[Place, str]:
    """Where the bento is in the store, and its tag; built from a whole checkout, tests included."""
    place = new_place()
    checkout = place.home / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "logs", "model.lock")
    shutil.copytree(ROOT, checkout, ignore=ignored, symlinks=True)
    for folder in ("preprocessing", "image_classifier"):  # as they were imported
        shutil.rmtree(checkout / folder)
        shutil.copytree(imported.directory / folder, checkout / folder)
    shutil.copy(imported.lock, checkout)
    source = Place(directory=checkout, home=place.home)
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "build", "--output", "tag"],
        cwd=checkout,
        env=source.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(checkout)
    tag = done.stdout.strip().splitlines()[-1].removeprefix("__tag__:")
    return source, tag


@pytest.fixture(scope="module")
def contents(built: tuple[Place, str]) -> Path:
    place, tag = built
    return place.home / "bentos" / tag.replace(":", "/")


def modules_of_the_running_service(place: Place) -> set[str]:
    """Our files that are imported when the service loads its model, both services in place."""
    code = (
        "import sys, pathlib, service\n"
        "service.ImageClassifier.inner()\n"
        "root = pathlib.Path.cwd()\n"
        "files = {pathlib.Path(m.__file__) for m in list(sys.modules.values())"
        " if getattr(m, '__file__', None)}\n"
        "print(*sorted(f.relative_to(root).as_posix() for f in files if root in f.parents))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place.directory,
        env=place.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_bento_holds_exactly_what_serving_needs(contents: Path, imported: Place) -> None:
    expected = modules_of_the_running_service(imported)
    for package in PACKED_WHOLE:
        expected |= {
            path.relative_to(imported.directory).as_posix()
            for path in (imported.directory / package).rglob("*.py")
        }
    expected |= {"model.lock", "deploy/requirements/serve-cpu.txt"}
    expected.add("preprocessing/conformance_cases.zip")
    page = imported.directory / "image_classifier" / "ui"
    expected |= {
        path.relative_to(imported.directory).as_posix() for path in page.rglob("*") if path.is_file()
    }

    packed = {
        path.relative_to(contents / "src").as_posix()
        for path in (contents / "src").rglob("*")
        if path.is_file()
    }

    # bentofile.yaml is what BentoML itself adds.
    assert packed - {"bentofile.yaml"} == expected
    tops = {Path(name).parts[0] for name in packed}
    assert not tops & {"tests", "examples", "importer", "tools", "docs", "model_import.py"}


def test_the_bento_names_the_locked_model_and_the_locked_requirements(
    contents: Path, imported: Place
) -> None:
    import yaml

    description = yaml.safe_load((contents / "bento.yaml").read_text())

    for service in description["services"]:
        assert [model["tag"] for model in service["models"]] == [imported.tag]
    assert {one["name"] for one in description["services"]} == {"ImageClassifier", "ModelRunner"}
    assert (contents / "src" / "model.lock").read_bytes() == imported.lock.read_bytes()
    locked = words_of(contents / "src" / "deploy" / "requirements" / "serve-cpu.txt")
    packed = words_of(contents / "env" / "python" / "requirements.txt")
    # BentoML adds itself, without a hash, to what already names it with one.
    assert packed - locked <= {"bentoml==1.4.40"}
    assert locked <= packed


def words_of(requirements: Path) -> set[str]:
    """Requirements, markers and hashes, however they are quoted and broken into lines."""
    return set(re.sub(r"[;'\"\\]", " ", requirements.read_text()).split())


@pytest.mark.parametrize("topology", ["embedded", "runner"])
def test_the_bento_answers_as_the_checkout_does_when_that_is_gone(
    built: tuple[Place, str], embedded: Server, empty_directory: Path, topology: str
) -> None:
    place, tag = built
    elsewhere = Place(directory=empty_directory, home=place.home)

    with Server(elsewhere, target=tag, topology=topology, **PATIENT) as server:
        for path in sorted(SAMPLES.iterdir()):
            data = path.read_bytes()
            answer = server.client.post("/classify?top_k=10", content=data).json()
            expected = embedded.client.post("/classify?top_k=10", content=data).json()
            assert answer["predictions"] == expected["predictions"]
            assert answer["model"] == expected["model"]
        card = server.card()
        assert card["topology"] == topology
        # The service runs from the bento, not from a checkout that is still somewhere.
        worker = server.workers()[0]
        assert Path(f"/proc/{worker}/cwd").readlink().is_relative_to(place.home / "bentos")
    assert json.dumps(card["labels"]) == json.dumps([str(digit) for digit in range(10)])
