"""The bento has exactly the files that serving needs, and answers as the checkout does."""

from pathlib import Path

import pytest
import yaml

from tests.imports import SAMPLES
from tests.service.places import NewPlace, Place
from tests.service.server import PATIENT, Server

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("servers")]


@pytest.fixture(scope="module")
def built(new_place: NewPlace) -> tuple[Place, str]:
    """A place with a bento in its store, built from a complete checkout, and the bento's tag."""
    place = new_place()
    tag = place.run("-m", "bentoml", "build", "--output", "tag").splitlines()[-1]
    return place, tag.removeprefix("__tag__:")


@pytest.fixture(scope="module")
def contents(built: tuple[Place, str]) -> Path:
    place, tag = built
    return place.home / "bentos" / tag.replace(":", "/")


def files(root: Path, folder: str = "", pattern: str = "*") -> set[str]:
    """Return the files below a folder of `root`, by their path below `root`."""
    found = (root / folder).rglob(pattern)
    return {path.relative_to(root).as_posix() for path in found if path.is_file()}


def test_the_bento_holds_exactly_what_serving_needs(contents: Path, imported: Place) -> None:
    expected = {"service.py", "model.lock", "deploy/requirements/serve-cpu.txt"}
    expected.add("preprocessing/conformance_cases.zip")
    expected |= files(imported.directory, "image_classifier/ui")
    for package in ("image_classifier", "preprocessing"):
        expected |= files(imported.directory, package, "*.py")

    # BentoML adds bentofile.yaml.
    assert files(contents / "src") - {"bentofile.yaml"} == expected


def test_both_services_of_the_bento_need_the_locked_model(contents: Path, imported: Place) -> None:
    description = yaml.safe_load((contents / "bento.yaml").read_text())

    for service in description["services"]:
        assert [model["tag"] for model in service["models"]] == [imported.tag]
    names = {service["name"] for service in description["services"]}
    assert names == {"ImageClassifier", "ModelRunner"}


@pytest.mark.parametrize("topology", ["embedded", pytest.param("runner", marks=pytest.mark.all)])
def test_the_bento_answers_as_the_checkout_does_without_it(
    built: tuple[Place, str], embedded: Server, tmp_path: Path, topology: str
) -> None:
    place, tag = built
    elsewhere = Place(directory=tmp_path, home=place.home)

    with Server(elsewhere, target=tag, topology=topology, **PATIENT) as server:
        for path in sorted(SAMPLES.iterdir()):
            data = path.read_bytes()
            answer = server.client.post("/classify?top_k=10", content=data).json()
            expected = embedded.client.post("/classify?top_k=10", content=data).json()
            assert answer["predictions"] == expected["predictions"]
            assert answer["model"] == expected["model"]
        card = server.card()
        assert card["topology"] == topology
        # The service runs from the bento, not from a checkout.
        worker = server.workers()[0]
        assert Path(f"/proc/{worker}/cwd").readlink().is_relative_to(place.home / "bentos")
    assert card["labels"] == [str(digit) for digit in range(10)]
