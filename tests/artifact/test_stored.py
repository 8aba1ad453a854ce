"""Artifacts that earlier versions of the program wrote are served, listed, shown and verified."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import sha256_file
from image_classifier.artifact.store import ModelLock, locate, read_lock, tag_of
from image_classifier.inference.engine import EngineUnavailable
from image_classifier.inference.predictions import top_k_predictions
from image_classifier.inference.startup import check_preprocessing, load_executor, open_for_serving
from model_import import main
from tests.artifact.make_stored import STORED
from tests.imports import isolated_store

VERSIONS = sorted(path.name for path in STORED.iterdir())


@pytest.fixture(params=VERSIONS)
def lock(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ModelLock]:
    """The lock of a stored artifact, which is in the store."""
    lock = read_lock(STORED / request.param / "model.lock")
    with isolated_store(tmp_path) as home:
        shutil.copytree(
            STORED / request.param / "artifact", home / "models" / lock.tag.replace(":", "/")
        )
        yield lock


def test_it_is_served_with_the_answers_it_was_imported_with(lock: ModelLock) -> None:
    artifact = open_for_serving(
        locate(lock.tag), lock.manifest_sha256, lock.evidence_sha256, public_key=None, graphs=True
    )
    executor = load_executor(artifact, engine=None, budget_ms=50, deterministic=True)

    logits = executor.run(check_preprocessing(artifact, artifact.preprocessing()))

    labels, outputs = artifact.labels(), artifact.manifest.outputs
    answers = [top_k_predictions(row, labels, 1, outputs)[0].label for row in logits]
    assert answers == [entry.name[0] for entry in artifact.manifest.golden]


def test_it_is_listed_shown_and_verified(
    lock: ModelLock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["tag"], row["classes"], row["problem"]) == (lock.tag, 10, None)

    assert main(["show", lock.tag, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["manifest_sha256"] == lock.manifest_sha256
    assert shown["evidence_sha256"] == lock.evidence_sha256

    assert main(["verify", lock.tag, "--json"]) == 0
    verified = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in verified["engines"]] == ["passed", "passed"]


def with_torchscript(root: Path) -> ModelLock:
    """Add a TorchScript graph and an engine of it, as earlier imports could have, and move it."""
    graph = root / "engines" / "network.torchscript.pt"
    graph.write_bytes(b"a graph of TorchScript")
    manifest = json.loads((root / "manifest.json").read_bytes())
    name = graph.relative_to(root).as_posix()
    entry = {"file": name, "format": "torchscript", "precision": "fp32", "companions": []}
    manifest["graphs"].append(entry)
    manifest["files"][name] = sha256_file(graph)
    (root / "manifest.json").write_text(json.dumps(manifest))
    identity = sha256_file(root / "manifest.json")
    evidence = json.loads((root / "evidence.json").read_bytes())
    evidence["identity_sha256"] = identity
    evidence["engines"].append({**evidence["engines"][0], "kind": "torchscript", "file": name})
    (root / "evidence.json").write_text(json.dumps(evidence))
    tag = tag_of(manifest["name"], identity)
    digest = sha256_file(root / "evidence.json")
    root.rename(root.with_name(tag.partition(":")[2]))
    return ModelLock(tag=tag, manifest_sha256=identity, evidence_sha256=digest)


def test_one_with_torchscript_is_verified_and_served_by_its_other_engines(
    lock: ModelLock, capsys: pytest.CaptureFixture[str]
) -> None:
    older = with_torchscript(locate(lock.tag))
    artifact = open_artifact(locate(older.tag), older.manifest_sha256, older.evidence_sha256)

    assert main(["verify", older.tag, "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["engines"]
    assert [row["verdict"] for row in rows] == ["passed", "passed", "unavailable"]
    executor = load_executor(artifact, engine=None, budget_ms=50, deterministic=True)
    assert not executor.plan.engine.startswith("torchscript")
    with pytest.raises(EngineUnavailable, match=r"import the model again, or .*renew` it"):
        load_executor(artifact, engine="torchscript-fp32", budget_ms=50, deterministic=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_small_and_holds_no_path_of_the_machine_that_wrote_it(version: str) -> None:
    files = [path for path in (STORED / version).rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) < 1_000_000
    for path in files:
        data = path.read_bytes()
        assert b"/home/" not in data and b"/work/" not in data and b"/tmp/" not in data, path
