"""Opening an artifact: every file verified, every difference told."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import ArtifactError
from tests.artifact.builder import contents, npy, write_artifact
from tests.changes import edit_json, flip_bit

LARGE = ("engines/network.onnx", "weights.safetensors")
EVERY_FILE = [*contents(), "manifest.json", "evidence.json"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "artifact")
    return tmp_path / "artifact"


def test_an_artifact_as_it_was_written_opens_and_can_be_read(root: Path) -> None:
    artifact = open_artifact(root)

    assert artifact.labels() == ("ant", "bee")
    assert artifact.golden_files() == (b"first picture", b"second picture")
    logits, class_ids = artifact.reference()
    assert (logits.tolist(), class_ids) == ([[1, 2], [3, 4]], (0, None))
    assert artifact.record is None


@pytest.mark.parametrize("name", EVERY_FILE)
def test_one_flipped_bit_in_any_file_is_refused(root: Path, name: str) -> None:
    sound = open_artifact(root)
    flip_bit(root / name)

    for graphs in (True, False):
        if name in LARGE and not graphs:  # not opened, so not verified
            assert open_artifact(root, sound.digest, sound.evidence_digest, graphs=False) == sound
            continue
        with pytest.raises(ArtifactError, match=name.rpartition("/")[2]) as refused:
            open_artifact(root, sound.digest, sound.evidence_digest, graphs=graphs)
        assert "import the model again" in str(refused.value)
        assert "\n" not in str(refused.value)


def remove(path: Path) -> None:
    path.unlink()


def add(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.touch()


def make_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def make_link(path: Path) -> None:
    """Its target is the very file or folder."""
    elsewhere = path.parents[1] / "elsewhere"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        *(
            (remove, name, rf"(missing: {name})|({name}: (not found|No such))")
            for name in EVERY_FILE
        ),
        *(
            (add, name, f"extra: {name}")
            for name in ("more.txt", "engines/evil.onnx", "golden/.hidden", "new/one")
        ),
        # Reading one would never end.
        *(
            (make_pipe, name, f"{name}: is a symbolic link, a pipe")
            for name in ("labels.json", "engines/pipe")
        ),
        *((make_link, name, f"{name}: is a symbolic link") for name in ("labels.json", "engines")),
    ],
)
def test_a_folder_that_holds_other_files_than_the_manifest_names_is_refused(
    root: Path, change: Callable[[Path], None], name: str, message: str
) -> None:
    change(root / name)

    for graphs in (True, False):
        if change is not remove or name not in LARGE or graphs:
            with pytest.raises(ArtifactError, match=message):
                open_artifact(root, graphs=graphs)


def test_another_manifest_or_evidence_than_the_lock_names_is_refused(root: Path) -> None:
    artifact = open_artifact(root)
    digest, evidence_digest = artifact.digest, artifact.evidence_digest

    assert open_artifact(root, digest, evidence_digest) == artifact
    with pytest.raises(ArtifactError, match=f"sha256 is {digest}, expected {'0' * 64}"):
        open_artifact(root, "0" * 64, evidence_digest)
    with pytest.raises(ArtifactError, match=f"sha256 is {evidence_digest}, expected {'0' * 64}"):
        open_artifact(root, digest, "0" * 64)


def test_evidence_that_does_not_fit_the_manifest_is_refused(root: Path) -> None:
    evidence = json.loads((root / "evidence.json").read_bytes())
    engine = evidence["engines"][0] | {"file": "engines/other.onnx"}

    edit_json(root / "evidence.json", engines=[engine])
    with pytest.raises(ArtifactError, match=r"engines/other\.onnx, which is no graph"):
        open_artifact(root)
    edit_json(root / "evidence.json", identity_sha256="0" * 64)
    with pytest.raises(ArtifactError, match=r"evidence\.json is the evidence of 0000"):
        open_artifact(root)


def test_labels_must_be_as_many_as_classes(tmp_path: Path) -> None:
    write_artifact(tmp_path, {**contents(), "labels.json": b'["ant"]'})

    with pytest.raises(ArtifactError, match="1 labels, the network has 2 classes"):
        open_artifact(tmp_path).labels()


@pytest.mark.parametrize(
    "logits",
    [np.zeros((2, 3), np.float32), np.zeros((1, 2), np.float32), np.zeros((2, 2), np.float64)],
    ids=["too-wide", "a-row-less", "float64"],
)
def test_golden_logits_must_fit_the_samples_and_the_classes(
    tmp_path: Path, logits: np.ndarray
) -> None:
    write_artifact(tmp_path, {**contents(), "golden/logits.npy": npy(logits)})

    with pytest.raises(ArtifactError, match=r"expected float32 \(2, 2\)"):
        open_artifact(tmp_path).reference()


def test_golden_logits_that_need_pickle_are_not_read(tmp_path: Path) -> None:
    pickled = npy(np.array([[print, 1], [2, 3]], dtype=object))
    write_artifact(tmp_path, {**contents(), "golden/logits.npy": pickled})

    with pytest.raises(ValueError, match="allow_pickle"):
        open_artifact(tmp_path).reference()


def test_reading_the_users_preprocessing_adds_no_file_to_the_artifact(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", False)

    preprocessing = open_artifact(root).preprocessing

    assert preprocessing.input_shape == (1, 1, 3)
    open_artifact(root)
