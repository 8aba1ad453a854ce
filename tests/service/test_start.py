"""A server that must not serve refuses to start: one line, exit status 1, the port closed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from image_classifier.artifact.format import sha256_bytes
from tests.service.conftest import NewPlace
from tests.service.places import Place
from tests.service.server import refusal, refused_start

pytestmark = pytest.mark.slow


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(data)


def test_without_a_lock_the_line_says_how_to_import(imported: Place) -> None:
    line = refused_start(imported, lock="elsewhere/model.lock")

    assert "elsewhere/model.lock: not found; import a model first (make import" in line


def test_without_the_model_the_line_names_its_tag(imported: Place, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    empty = Place(directory=imported.directory, home=tmp_path / "home")

    message = refusal(empty)

    assert f"model store: {imported.tag} is not there; import the model (make import" in message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"max_quee": 3},
            "environment: unknown CLASSIFIER_MAX_QUEE; did you mean CLASSIFIER_MAX_QUEUE?",
        ),
        (
            {"engine": "tensorrt-fp8"},
            "no certified engine 'tensorrt-fp8'; there are openvino-fp32",
        ),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_do(
    imported: Place, settings: dict[str, object], said: str
) -> None:
    assert said in refusal(imported, **settings)


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("preprocessing/own/preprocessing.py", refused_start),  # by the supervisor
        ("engines/network.onnx", refused_start),  # by the worker, which opens it
        ("labels.json", refusal),
        ("golden/logits.npy", refusal),
    ],
)
def test_a_changed_file_is_named_with_both_digests(
    new_place: NewPlace, name: str, refused: Callable[[Place], str]
) -> None:
    place = new_place()
    expected = sha256_bytes((place.artifact / name).read_bytes())
    flip_a_byte(place.artifact / name)

    message = refused(place)

    assert str(place.artifact) in message
    assert name in message
    assert expected in message
    assert sha256_bytes((place.artifact / name).read_bytes()) in message
    assert message.endswith("; import the model again")


@pytest.mark.parametrize("name", ["manifest", "evidence"])
def test_a_changed_manifest_or_evidence_is_refused_by_its_digest_in_the_lock(
    new_place: NewPlace, name: str
) -> None:
    place = new_place()
    path = place.artifact / f"{name}.json"
    path.write_bytes(path.read_bytes().replace(b"}\n", b"} \n"))

    message = refusal(place)

    expected = json.loads(place.lock.read_bytes())[f"{name}_sha256"]
    actual = sha256_bytes(path.read_bytes())
    assert f"{name}.json: sha256 is {actual}, expected {expected}; " in message
    assert "import the model again" in message


def test_a_file_that_the_manifest_does_not_list_is_refused(new_place: NewPlace) -> None:
    place = new_place()
    (place.artifact / "golden" / "more.png").write_bytes(b"x")

    assert "golden/more.png" in refusal(place)


Change = Callable[[dict[str, Any], Path], None]


def relocked(place: Place, change: Change) -> Place:
    """The artifact changed by someone who makes all digests right again, and its lock."""
    manifest = json.loads((place.artifact / "manifest.json").read_bytes())
    change(manifest, place.artifact)
    for name in manifest["files"]:
        manifest["files"][name] = sha256_bytes((place.artifact / name).read_bytes())
    (place.artifact / "manifest.json").write_text(json.dumps(manifest))
    evidence = json.loads((place.artifact / "evidence.json").read_bytes())
    evidence["identity_sha256"] = sha256_bytes((place.artifact / "manifest.json").read_bytes())
    logits = (place.artifact / "golden" / "logits.npy").read_bytes()
    evidence["reference_logits_sha256"] = sha256_bytes(logits)
    (place.artifact / "evidence.json").write_text(json.dumps(evidence))
    lock = {
        **json.loads(place.lock.read_bytes()),
        "manifest_sha256": evidence["identity_sha256"],
        "evidence_sha256": sha256_bytes((place.artifact / "evidence.json").read_bytes()),
    }
    directory = place.home / "directory"
    shutil.copytree(place.directory, directory, ignore=shutil.ignore_patterns("examples"))
    (directory / "model.lock").write_text(json.dumps(lock))
    return Place(directory=directory, home=place.home)


def wrong_reference_logit(_: dict[str, Any], root: Path) -> None:
    """The last of the float32 logits, one larger."""
    import numpy as np

    logits = np.load(root / "golden" / "logits.npy")
    logits[-1, -1] += 1
    np.save(root / "golden" / "logits.npy", logits)


def wrong_input_digest(manifest: dict[str, Any], _: Path) -> None:
    manifest["golden"][3]["input_sha256"] = "0" * 64


def wrong_case_digest(manifest: dict[str, Any], _: Path) -> None:
    name = next(name for name in sorted(manifest["conformance"]) if name.startswith("decode/png-"))
    manifest["conformance"][name] = "0" * 64


def golden_sample_that_is_no_image(manifest: dict[str, Any], root: Path) -> None:
    (root / manifest["golden"][0]["file"]).write_bytes(b"not an image")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(wrong_reference_logit, "a logit is off by", id="logits"),
        pytest.param(wrong_input_digest, "other pixels than at import", id="pixels"),
        pytest.param(wrong_case_digest, "conformance cases (decode/png-", id="cases"),
    ],
)
def test_a_failed_self_check_is_refused(new_place: NewPlace, change: Change, said: str) -> None:
    message = refusal(relocked(new_place(), change))

    assert said in message
    assert "import the model again" in message


@pytest.mark.parametrize(
    ("change", "said"),  # what the runner checks, what the API process does
    [(wrong_reference_logit, "a logit is off by"), (wrong_case_digest, "conformance cases (")],
)
def test_a_failed_self_check_in_a_worker_stops_the_whole_server(
    new_place: NewPlace, change: Change, said: str
) -> None:
    line = refused_start(relocked(new_place(), change), topology="runner")

    assert line.startswith("image_classifier: ")
    assert said in line


def test_whatever_fails_in_a_worker_is_one_line_and_the_end_of_the_server(
    new_place: NewPlace,
) -> None:
    line = refused_start(relocked(new_place(), golden_sample_that_is_no_image))

    assert line.startswith("image_classifier: the start failed: UnsupportedImage: ")
