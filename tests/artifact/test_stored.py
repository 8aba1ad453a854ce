"""Artifacts written by earlier versions can be served, listed, shown and verified."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_classifier.artifact.store import ModelLock, locate, read_lock
from image_classifier.inference.predictions import top_k_predictions
from image_classifier.inference.startup import check_preprocessing, load_executor, open_for_serving
from model_import import main
from tests.imports import STORED, isolated_store

VERSIONS = sorted(path.name for path in STORED.iterdir())


@pytest.fixture(params=VERSIONS)
def lock(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ModelLock]:
    """Put a stored artifact into the store; yield its lock."""
    lock = read_lock(STORED / request.param / "model.lock")
    with isolated_store(tmp_path) as home:
        shutil.copytree(
            STORED / request.param / "artifact", home / "models" / lock.tag.replace(":", "/")
        )
        yield lock


def test_the_answers_are_those_of_the_import(lock: ModelLock) -> None:
    artifact = open_for_serving(
        locate(lock.tag), lock.manifest_sha256, lock.evidence_sha256, public_key=None, graphs=True
    )
    executor = load_executor(artifact, engine=None, budget_ms=50, deterministic=True)

    logits = executor.run(check_preprocessing(artifact, artifact.preprocessing))

    labels, outputs = artifact.labels(), artifact.manifest.outputs
    answers = [top_k_predictions(row, labels, 1, outputs)[0].label for row in logits]
    assert answers == [entry.name[0] for entry in artifact.manifest.golden]


def test_the_commands_list_show_and_verify_accept_it(
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
