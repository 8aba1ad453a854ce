"""Real weights, imported and served: the answers are the published probabilities."""

import json
from pathlib import Path

import pytest

from tests.importer.trained_models import PROBABILITY_TOLERANCE, options_of
from tests.imports import command_line
from tests.service.places import Place, copy_checkout
from tests.service.server import Server
from tests.shared_data import SHARED, needs_shared_data

pytestmark = [needs_shared_data, pytest.mark.slow]
MODEL = "squeezenet1_1_imagenet"
LOCK = "squeezenet.lock"
TOP_K = 5


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A copy of the checkout with SqueezeNet imported under a lock of another name."""
    place = Place(directory=tmp_path / "checkout", home=tmp_path / "home")
    copy_checkout(place.directory)
    options = options_of(MODEL, tmp_path, golden_count=8, lock=place.directory / LOCK)
    place.run("model_import.py", "--quiet", *command_line(options))
    return place


def test_a_hundred_photos_get_the_published_probabilities(place: Place) -> None:
    published = json.loads((SHARED / "golden" / f"{MODEL}.nips17_dev.json").read_bytes())
    names = (SHARED / "weights" / "imagenet_categories.txt").read_text().splitlines()

    with Server(place, lock=LOCK, max_wait_ms=50_000, timeout_ms=50_000) as server:
        for name, expected in published["images"].items():
            data = (SHARED / "images" / "nips17_dev" / name).read_bytes()
            answer = server.client.post(f"/classify?top_k={TOP_K}", content=data)
            found = answer.json()["predictions"]

            assert [one["probability"] for one in found] == pytest.approx(
                expected["top_probs"][:TOP_K], abs=PROBABILITY_TOLERANCE
            )
            # Twice the tolerance apart or more, the order is certain.
            if expected["margin_top1_top2"] > 1e-4:
                assert found[0]["class_id"] == expected["top_ids"][0]
                assert found[0]["label"] == names[expected["top_ids"][0]]
    assert server.process.returncode == 0, server.log
