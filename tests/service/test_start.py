"""An invalid configuration or model stops the start with one line."""

import json
import shutil

import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import sha256_bytes
from image_classifier.artifact.store import lock_of, write_lock
from tests.changes import reseal
from tests.service.places import NewPlace, Place
from tests.service.server import refused_start

pytestmark = pytest.mark.slow


def with_a_golden_sample_that_is_no_image(place: Place) -> Place:
    """Replace a golden sample, and update all digests and the lock."""
    (place.artifact / "golden" / "0000.png").write_bytes(b"not an image")
    reseal(place.artifact)
    lock = lock_of(open_artifact(place.artifact)).model_copy(update={"tag": place.tag})
    directory = place.home / "directory"
    shutil.copytree(place.directory, directory, ignore=shutil.ignore_patterns("examples"))
    write_lock(directory / "model.lock", lock)
    return Place(directory=directory, home=place.home)


def test_an_error_in_the_supervisor_is_one_line_and_exit_status_1(imported: Place) -> None:
    line = refused_start(imported, lock="elsewhere/model.lock")
    assert "elsewhere/model.lock: not found; import a model first (make import" in line


def test_an_error_in_a_worker_is_one_line_and_stops_the_server(
    new_place: NewPlace,
) -> None:
    place = with_a_golden_sample_that_is_no_image(new_place())
    (place.home / "prometheus_multiproc_dir").touch()  # so that no directory can be created

    line = refused_start(place, topology="runner")  # fails in the runner and in the API processes

    assert "the start failed: UnsupportedImage: " in line


def test_an_unknown_engine_is_refused_with_those_of_the_model(imported: Place) -> None:
    message = "no certified engine 'tensorrt-fp8'; there are openvino-fp32"
    assert message in refused_start(imported, engine="tensorrt-fp8")


def test_evidence_that_is_not_the_locked_one_is_refused(new_place: NewPlace) -> None:
    place = new_place()
    path = place.artifact / "evidence.json"
    path.write_bytes(path.read_bytes() + b" ")

    message = refused_start(place)

    assert sha256_bytes(path.read_bytes()) in message
    assert json.loads(place.lock.read_bytes())["evidence_sha256"] in message
