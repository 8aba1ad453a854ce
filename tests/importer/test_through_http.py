"""Real weights, imported and served: the answers are the published probabilities."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.importer.trained_models import PROBABILITY_TOLERANCE, SPECS, spec_file
from tests.imports import PATIENCE_S
from tests.service.places import Place, copy_checkout
from tests.service.server import Server
from tests.shared_data import SHARED, needs_shared_data

pytestmark = [needs_shared_data, pytest.mark.slow]
MODEL = "squeezenet1_1_imagenet"
TOP_K = 5


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A copy of the checkout with SqueezeNet imported under a lock of another name."""
    place = Place(directory=tmp_path / "checkout", home=tmp_path / "home")
    copy_checkout(place.directory)
    done = subprocess.run(
        [sys.executable, "model_import.py", "--name", "squeezenet", "--quiet",
         "--network", "torchvision:squeezenet1_1",
         "--weights", str(SHARED / "weights" / "squeezenet1_1_imagenet.pth"),
         "--preprocessing", spec_file(tmp_path, SPECS[MODEL]),
         "--labels", str(SHARED / "weights" / "imagenet_categories.txt"),
         "--golden", str(SHARED / "images" / "nips17_dev"), "--golden-count", "8",
         "--reference", str(SHARED / "golden" / f"{MODEL}.nips17_dev.npz"),
         "--measure-seconds", "0.002", "--lock", "squeezenet.lock"],
        cwd=place.directory, env=place.environment(), capture_output=True, text=True,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place


def test_a_hundred_photos_get_the_published_probabilities(place: Place) -> None:
    published = json.loads((SHARED / "golden" / f"{MODEL}.nips17_dev.json").read_bytes())
    names = (SHARED / "weights" / "imagenet_categories.txt").read_text().splitlines()

    with Server(place, lock="squeezenet.lock", max_wait_ms=50_000, timeout_ms=50_000) as server:
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
