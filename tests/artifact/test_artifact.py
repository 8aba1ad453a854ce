"""Opening an artifact: every file is verified, and every difference is reported."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import ArtifactError
from tests.artifact.builder import RECORD, contents, npy, sha256, write_artifact
from tests.changes import edit_json, flip_bit

LARGE = ("engines/network.onnx", "weights.safetensors")
EVERY_FILE = [*contents(), "manifest.json", "evidence.json"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "artifact")
    return tmp_path / "artifact"


def test_an_unchanged_artifact_opens_and_reading_its_preprocessing_adds_no_file(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    artifact = open_artifact(root)

    assert artifact.labels() == ("ant", "bee")
    assert artifact.golden_files() == (b"first picture", b"second picture")
    logits, class_ids = artifact.reference()
    assert (logits.tolist(), class_ids) == ([[1, 2], [3, 4]], (0, None))
    assert artifact.record == RECORD
    assert artifact.preprocessing.input_spec.shape == (1, 1, 3)
    open_artifact(root)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_one_flipped_bit_in_any_file_is_refused(root: Path, name: str) -> None:
    unchanged = open_artifact(root)
    digests = unchanged.digest, unchanged.evidence_digest
    flip_bit(root / name)

    for graphs in (True, False):
        if name in LARGE and not graphs:  # not opened, so not verified
            assert open_artifact(root, *digests, graphs=False) == unchanged
            continue
        with pytest.raises(ArtifactError, match=name.rpartition("/")[2]) as refused:
            open_artifact(root, *digests, graphs=graphs)
        assert "import the model again" in str(refused.value)
        assert "\n" not in str(refused.value)


def make_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def replace_by_link(path: Path) -> None:
    elsewhere = path.parents[1] / "elsewhere"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (Path.unlink, "golden/0001.jpg", r"missing: golden/0001\.jpg"),
        (Path.unlink, "manifest.json", r"manifest\.json: No such file"),
        (Path.unlink, "evidence.json", r"evidence\.json: No such file"),
        (Path.touch, "golden/.hidden", r"extra: golden/\.hidden"),
        (Path.touch, "engines/evil.onnx", r"extra: engines/evil\.onnx"),
        (make_pipe, "labels.json", r"labels\.json: is a symbolic link, a pipe"),
        (make_pipe, "engines/pipe", "engines/pipe: is a symbolic link, a pipe"),
        (replace_by_link, "labels.json", r"labels\.json: is a symbolic link"),
        (replace_by_link, "engines", "engines: is a symbolic link"),
    ],
)
def test_missing_extra_and_special_files_are_refused(
    root: Path, change: Callable[[Path], None], name: str, message: str
) -> None:
    change(root / name)

    for graphs in (True, False):
        with pytest.raises(ArtifactError, match=message):
            open_artifact(root, graphs=graphs)


def test_manifest_and_evidence_must_have_the_digests_of_the_lock(root: Path) -> None:
    artifact = open_artifact(root)
    digest, evidence_digest = artifact.digest, artifact.evidence_digest

    assert open_artifact(root, digest, evidence_digest) == artifact
    with pytest.raises(ArtifactError, match=f"sha256 is {digest}, expected {'0' * 64}"):
        open_artifact(root, "0" * 64, evidence_digest)
    with pytest.raises(ArtifactError, match=f"sha256 is {evidence_digest}, expected {'0' * 64}"):
        open_artifact(root, digest, "0" * 64)
    (root / "evidence.json").write_bytes(b"{")  # the digest is compared first, then it is parsed
    with pytest.raises(ArtifactError, match=f"expected {evidence_digest}: it was changed, or"):
        open_artifact(root, digest, evidence_digest)


def test_evidence_that_contradicts_the_manifest_is_refused(root: Path) -> None:
    evidence = json.loads((root / "evidence.json").read_bytes())
    engine = evidence["engines"][0] | {"file": "engines/other.onnx"}

    edit_json(root / "evidence.json", engines=[engine])
    with pytest.raises(ArtifactError, match=r"engines/other\.onnx, which is not a graph"):
        open_artifact(root)
    edit_json(root / "evidence.json", identity_sha256="0" * 64)
    with pytest.raises(ArtifactError, match=r"evidence\.json is the evidence of 0000"):
        open_artifact(root)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../outside", "engines/../../outside", "engines//network.onnx", "./labels.json",
     "", ".", "manifest.json", "evidence.json", "record.json"],
)  # fmt: skip
def test_manifests_of_files_outside_and_of_unpinned_files_are_refused(
    root: Path, name: str
) -> None:
    (root.parent / "outside").touch()
    files = json.loads((root / "manifest.json").read_bytes())["files"]
    edit_json(root / "manifest.json", files={**files, name: sha256(b"")})
    edit_json(root / "evidence.json", identity_sha256=sha256((root / "manifest.json").read_bytes()))

    for graphs in (True, False):
        with pytest.raises(ArtifactError, match=f"missing: {re.escape(name)}"):
            open_artifact(root, graphs=graphs)


def test_a_record_cannot_select_an_engine_without_a_certificate(root: Path) -> None:
    plan = RECORD.plan.model_copy(update={"engine": "openvino-int8"})
    record = RECORD.model_copy(update={"plan": plan})
    (root / "record.json").write_bytes(record.to_json())

    with pytest.raises(ArtifactError, match="'openvino-int8' is not certified; import the model"):
        open_artifact(root)


def test_a_pipe_in_place_of_the_record_is_refused_without_reading_it(root: Path) -> None:
    (root / "record.json").unlink()
    os.mkfifo(root / "record.json")

    with pytest.raises(ArtifactError, match=r"record\.json: is not a file"):
        open_artifact(root)


def test_the_number_of_labels_must_be_the_number_of_classes(tmp_path: Path) -> None:
    write_artifact(tmp_path, {**contents(), "labels.json": b'["ant"]'})

    with pytest.raises(ArtifactError, match="1 labels, the network has 2 classes"):
        open_artifact(tmp_path).labels()


@pytest.mark.parametrize(
    "logits",
    [np.zeros((2, 3), np.float32), np.zeros((1, 2), np.float32), np.zeros((2, 2), np.float64)],
    ids=["too-wide", "a-row-less", "float64"],
)
def test_reference_logits_must_have_the_shape_of_samples_and_classes(
    tmp_path: Path, logits: np.ndarray
) -> None:
    write_artifact(tmp_path, {**contents(), "golden/logits.npy": npy(logits)})

    with pytest.raises(ArtifactError, match=r"expected float32 \(2, 2\)"):
        open_artifact(tmp_path).reference()


def test_pickled_reference_logits_are_not_read(tmp_path: Path) -> None:
    pickled = npy(np.array([[print, 1], [2, 3]], dtype=object))
    write_artifact(tmp_path, {**contents(), "golden/logits.npy": pickled})

    with pytest.raises(ValueError, match="allow_pickle"):
        open_artifact(tmp_path).reference()
