"""The other commands than import: their text, their JSON and their exit status."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.store import (
    add,
    lock_of,
    open_in_store,
    read_lock,
    staging_dir,
    write_lock,
)
from importer.errors import ImportRefused
from importer.options import EngineOptions, ImportOptions
from importer.pipeline import Imported
from importer.prediction import FileAnswer
from importer.renewal import renewed_options
from importer.report import print_answers
from model_import import main
from preprocessing.errors import SpecError
from tests.artifact.builder import contents, write_artifact
from tests.changes import edit_json, reseal
from tests.imports import ROOT, SAMPLES, STORED, isolated_store

Output = pytest.CaptureFixture[str]


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[Path]:
    """A copy of the stored digits artifact in its own store, for a test to change."""
    lock = read_lock(STORED / "v2" / "model.lock")
    with isolated_store(tmp_path / "copy") as home:
        target = home / "models" / lock.tag.replace(":", "/")
        shutil.copytree(STORED / "v2" / "artifact", target)
        yield target


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of the program's model.lock, which does not exist."""
    monkeypatch.setattr("importer.commands.DEFAULT_LOCK", tmp_path / "model.lock")
    return tmp_path / "model.lock"


@pytest.fixture
def later(copied: Path) -> str:
    """Tag of an artifact in the same store with another name and a later date."""
    with staging_dir() as root:
        shutil.copytree(copied, root, dirs_exist_ok=True)
        edit_json(root / "manifest.json", name="later")
        edit_json(root / "record.json", imported_at="2026-02-03T04:05:06Z")
        reseal(root)
        lock = lock_of(open_artifact(root))
        add(root, lock)
        return lock.tag


def tag(folder: Path) -> str:
    return f"digits:{folder.name}"


def with_logits(folder: Path, change: Any) -> Path:
    """Change the golden logits of an artifact, and the digests with them."""
    logits = np.load(folder / "golden" / "logits.npy")
    np.save(folder / "golden" / "logits.npy", change(logits))
    reseal(folder)
    return folder


def test_an_engine_with_other_answers_fails_and_is_not_used(
    copied: Path, lock: Path, capsys: Output
) -> None:
    folder = with_logits(copied, lambda logits: logits + np.float32(0.5))
    lock.write_text("as it was")

    statuses = [main(["verify", tag(folder), "--json"]), main(["use", tag(folder), "--quiet"])]

    out, err = capsys.readouterr()
    assert statuses == [1, 1]
    for row in json.loads(out)["engines"]:
        assert row["verdict"] == "failed"
        assert f"engine {row['engine']}, batch size 1: a logit is off by" in row["reason"]
    assert f"model_import: {tag(folder)}: engine openvino-fp32, batch size 1: a logit" in err
    assert lock.read_text() == "as it was"


def test_an_artifact_whose_preprocessing_cannot_be_loaded_here_is_not_used(
    copied: Path, lock: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    unloadable = property(Mock(side_effect=SpecError("imports scipy, which is not installed")))
    monkeypatch.setattr(Artifact, "preprocessing", unloadable)
    lock.write_text("as it was")

    assert [main([command, tag(copied), "--quiet"]) for command in ("verify", "use")] == [1, 1]

    assert "imports scipy, which is not installed" in capsys.readouterr().err
    assert lock.read_text() == "as it was"


def test_an_engine_that_cannot_run_here_is_reported_and_its_artifact_can_be_used(
    copied: Path, lock: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["verify", tag(copied)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "onnxruntime-fp32: passed",
        f"verified: {tag(copied)}",
    ]
    monkeypatch.setitem(sys.modules, "image_classifier.inference.engines.onnxruntime", None)

    status = main(["verify", tag(copied), "--json"])
    openvino, onnxruntime = json.loads(capsys.readouterr().out)["engines"]
    used = main(["use", tag(copied)])

    assert (status, used) == (1, 0)
    assert openvino == {"engine": "openvino-fp32", "verdict": "passed", "reason": ""}
    assert onnxruntime["verdict"] == "unavailable"
    assert "is not installed" in onnxruntime["reason"]
    assert "  running onnxruntime-fp32 failed" in capsys.readouterr().err
    assert read_lock(lock) == lock_of(open_artifact(copied))


def test_an_engine_that_runs_here_in_another_precision_is_not_verified(
    copied: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importer.certification.effective_precision", lambda graph: "bf16")

    assert main(["verify", tag(copied), "--json"]) == 1

    for row in json.loads(capsys.readouterr().out)["engines"]:
        assert row["verdict"] == "unavailable"
        assert "the engine runs in bf16 instead" in row["reason"]


def test_use_writes_the_lock_and_prints_the_old_and_the_new_tag(
    copied: Path, later: str, lock: Path, tmp_path: Path, capsys: Output
) -> None:
    other = str(tmp_path / "other.lock")
    steps = [["use", later], ["use", tag(copied)], ["use", later, "--json", "--lock", other]]

    assert [main([*step, "--quiet"]) for step in steps] == [0, 0, 0]

    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first == f"{lock}: nothing → {later}"
    assert second == f"{lock}: {later} → {tag(copied)}"
    assert (json.loads("".join(rest))["before"], json.loads("".join(rest))["tag"]) == (None, later)
    assert read_lock(lock) == read_lock(STORED / "v2" / "model.lock")
    assert read_lock(Path(other)).tag == later


def test_show_prints_manifest_evidence_and_record(copied: Path, capsys: Output) -> None:
    edit_json(
        copied / "record.json",
        command="import \x1b[31mred\x07 [bold]",
        first_command="import --calibration photos",
        proof=["9 of 9 right", "accepted: a"],
    )

    assert main(["show", tag(copied)]) == 0
    page = capsys.readouterr().out
    main(["show", tag(copied), "--json"])
    found = json.loads(capsys.readouterr().out)

    for words in (
        tag(copied),
        open_artifact(copied).digest,
        "network.py:build",
        "class DigitsPreprocessing in preprocessing/own/preprocessing.py",
        "10: 0, 1, 2, …",
        "30 with a known class",
        "import ·[31mred· [bold]",
        "first import     import --calibration photos",
        "proof            9 of 9 right; accepted: a",
        "onnxruntime-fp32",
    ):
        assert words in page
    assert found.keys() == {
        *("schema_version", "tag", "manifest_sha256", "evidence_sha256"),
        *("manifest", "evidence", "record"),
    }
    assert found["manifest"] == json.loads((copied / "manifest.json").read_bytes())
    assert found["evidence"]["identity_sha256"] == found["manifest_sha256"]
    assert found["record"]["plan"] == json.loads((copied / "record.json").read_bytes())["plan"]


def test_list_prints_the_newest_artifact_first_and_marks_the_locked_one(
    copied: Path, later: str, lock: Path, capsys: Output
) -> None:
    write_lock(lock, read_lock(STORED / "v2" / "model.lock"))
    (copied.parents[1] / "other" / "abc").mkdir(parents=True)
    (copied.parents[1] / "other" / "abc" / "model.yaml").write_text("name: other\n")

    main(["list", "--json"])
    first, second = json.loads(capsys.readouterr().out)
    main(["list"])
    lines = capsys.readouterr().out.splitlines()

    size = sum(path.stat().st_size for path in copied.rglob("*") if path.is_file())
    assert (first["tag"], first["locked"]) == (later, False)
    assert second == {
        "tag": tag(copied),
        "classes": 10,
        "network": "network.py:build",
        "accuracy": 1.0,
        "engine": "openvino-fp32",
        "engines": ["openvino-fp32", "onnxruntime-fp32"],
        "imported_at": "2026-01-01T00:00:00+00:00",
        "size_bytes": size,
        "locked": True,
        "problem": None,
    }
    when = f"{datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC).astimezone():%Y-%m-%d %H:%M}"
    facts = f"{when}  network.py:build  100.0%    openvino-fp32  0."
    assert [line.split("  ")[0] for line in lines] == ["tag", later, tag(copied)]
    assert lines[1].endswith("MB") and facts in lines[1]
    assert lines[2].endswith(f"{size / 1e6:.1f} MB  *")


def test_list_has_rows_for_damaged_artifacts(copied: Path, capsys: Output) -> None:
    models = copied.parents[1]
    for name, file, content in (
        ("ant", "manifest.json", b'{"schema_version": 9}'),
        ("bee", "record.json", b"{}"),
    ):
        shutil.copytree(copied, models / name / "abc")
        (models / name / "abc" / file).write_bytes(content)
    (models / "A [b]\x1b" / "c").mkdir(parents=True)
    (models / "A [b]\x1b" / "c" / "manifest.json").write_text("[]")

    status = main(["list", "--json"])
    rows = {row["tag"]: row for row in json.loads(capsys.readouterr().out)}
    main(["list"])
    lines = capsys.readouterr().out.splitlines()

    assert status == 0
    assert rows[tag(copied)]["classes"] == 10
    assert "schema_version: Input should be 2, found 9" in rows["ant:abc"]["problem"]
    assert "record.json: " in rows["bee:abc"]["problem"]
    names = [line.split("  ")[0] for line in lines]
    assert names[:5] == ["tag", tag(copied), "A [b]·:c", "ant:abc", "bee:abc"]
    assert lines[5].startswith("A [b]·:c: model store: ")
    assert "schema_version: Input should be 2, found 9" in lines[6]


def test_the_message_for_an_unknown_tag_names_the_nearest(copied: Path, capsys: Output) -> None:
    for command in ("verify", "show", "use", "renew"):
        assert main([command, f"{tag(copied)[:-1]}x", "--quiet"]) == 1
        err = capsys.readouterr().err
        assert err.startswith(f"model_import: model store: {tag(copied)[:-1]}x is not there (")
        assert "; import the model (make import" in err
        assert err.endswith(f"; did you mean {tag(copied)}?\n")


def test_predict_classifies_folders_and_files_beside_bad_ones(
    copied: Path, lock: Path, tmp_path: Path, capsys: Output
) -> None:
    write_lock(lock, lock_of(open_artifact(copied)))
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    shutil.copy(SAMPLES / "7-01.png", folder / "b")
    shutil.copy(SAMPLES / "0-02.jpg", folder / "more")
    (folder / "a.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    (folder / ".hidden.png").write_bytes(b"")

    status = main(["predict", str(folder), "--top-k", "2"])

    out, err = capsys.readouterr()
    # README has these numbers of 7-01.png from the running service.
    bad, seven, zero = (line.removeprefix(f"{folder}/") for line in out.splitlines())
    assert status == 1
    assert bad == (
        "a.png: unsupported_media_type: the file is not a JPEG, PNG, WebP, GIF or BMP image"
    )
    assert seven == "b: 7 0.9762, 4 0.005281"
    assert zero.startswith("more/0-02.jpg: 0 0.")
    assert f"1 file(s) skipped that are not images, such as {folder}/notes.txt" in err
    assert "✓ classify 3 file(s) (" in err

    paths = [str(folder / "notes.txt"), *[str(folder / "b")] * 40]
    command = ["predict", tag(copied)]
    assert main([*command, *paths, "--json", "--top-k", "99"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert main([*command, *paths[:2], "--csv", "--quiet", "--top-k", "1"]) == 1
    header, error, prediction = capsys.readouterr().out.splitlines()

    assert found["tag"] == tag(copied)
    assert [result["file"] for result in found["results"]] == paths
    assert found["results"][0]["error"]["code"] == "unsupported_media_type"
    assert {len(result["predictions"]) for result in found["results"][1:]} == {10}
    assert found["results"][40]["predictions"][0]["label"] == "7"
    assert header == "file,rank,label,class_id,probability,error"
    assert error.startswith(f'{paths[0]},,,,,"unsupported_media_type: ')
    assert prediction.startswith(f"{paths[1]},1,7,7,0.976203")


def test_a_folder_with_the_name_of_a_model_does_not_change_the_model(
    copied: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    shutil.copy(SAMPLES / "0-02.jpg", tmp_path / "digits")
    monkeypatch.chdir(tmp_path)

    assert main(["predict", "digits", str(SAMPLES / "7-01.png")]) == 0

    out, err = capsys.readouterr()
    assert ": 7 0.9762, " in out
    assert f"the model is {tag(copied)}" in err

    assert main(["predict", tag(copied), "digits", str(SAMPLES / "7-01.png"), "--quiet"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2  # with a tag it is the folder


def test_an_image_that_reaches_no_label_has_a_row_too(capsys: Output) -> None:
    print_answers([FileAnswer(file="a.jpg"), FileAnswer(file="b.jpg")], "csv", "probability")

    assert capsys.readouterr().out.splitlines()[1:] == ["a.jpg,,,,,", "b.jpg,,,,,"]


@pytest.mark.slow
def test_renew_imports_an_old_artifact_from_its_own_files(
    copied: Path, lock: Path, capsys: Output
) -> None:
    old = read_lock(STORED / "v2" / "model.lock")
    write_lock(lock, old)
    record = json.loads((copied / "record.json").read_bytes())
    edit_json(copied / "record.json", proof=["1 of 30 right", "labels proven"])
    options = ["--measure-seconds", "0.002", "--engine", "onnxruntime", "--quiet"]

    assert main(["renew", old.tag, *options]) == 0
    *lines, note, last = capsys.readouterr().out.splitlines()

    # The same network, weights and images as the example, with this release: its tag.
    (renewed,) = re.findall(r'"tag": "(digits:\w+)"', (ROOT / "README.md").read_text())
    assert last == f"imported: {renewed}"
    assert note == f"{old.tag} stays; `model_import.py use {renewed}` serves this one"
    assert [line for line in lines if "right" in line or "proven" in line] == [
        "reference: 30 of 30 labelled images right (100.0%)",
        "labels proven",
    ]
    assert read_lock(lock) == old == lock_of(open_artifact(copied))
    folder = copied.with_name(renewed.partition(":")[2])
    assert [entry.name for entry in open_artifact(folder).evidence.engines] == ["onnxruntime-fp32"]

    # Evidence of another processor: its reference differs in the last bits.
    with_logits(folder, lambda logits: np.nextafter(logits, np.float32(99)))
    edit_json(folder / "evidence.json", ignored_weights=["aux.bias"])
    write_lock(lock, lock_of(open_artifact(folder)))

    assert main(["renew", renewed, *options[:2], "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["proof"][-1] == "the identity is the same, and proven again"
    assert found["proof"][-2].startswith("the reference answers 30 of 30 golden images as before")
    assert [attempt["engine"] for attempt in found["record"]["attempts"]] == ["onnxruntime-fp32"]
    assert found["record"]["first_command"] == record["command"] != found["record"]["command"]
    assert found["record"]["proof"] == found["proof"][:2]
    assert found["evidence"]["ignored_weights"] == ["aux.bias"]
    assert read_lock(lock) == lock_of(open_artifact(folder))


def test_a_lock_that_names_the_result_of_a_renewal_gets_its_evidence(
    copied: Path, later: str, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = open_in_store(later)
    parts = {name: getattr(result, name) for name in ("manifest", "evidence", "record")}
    imported = Imported(lock=lock_of(result), known=False, **parts)
    monkeypatch.setattr("importer.commands._run_import", lambda *_: imported)
    write_lock(lock, imported.lock.model_copy(update={"evidence_sha256": "0" * 64}))

    assert main(["renew", tag(copied), "--quiet"]) == 0

    assert read_lock(lock) == imported.lock


def test_a_renewal_whose_network_answers_differently_is_refused(
    copied: Path, lock: Path, capsys: Output
) -> None:
    folder = with_logits(copied, lambda logits: logits + np.float32(0.5))
    before = sorted(copied.parents[1].rglob("*"))

    assert main(["renew", tag(folder), "--quiet"]) == 1

    assert re.match(
        r"model_import: digits: the network answers differently than at the first import: .* by "
        r"up to 0\.5; .* import it again from the original checkpoint$",
        capsys.readouterr().err,
    )
    assert sorted(copied.parents[1].rglob("*")) == before


def renewed(folder: Path, tmp_path: Path, **changes: object) -> ImportOptions:
    (tmp_path / "renewal").mkdir()
    options = EngineOptions.model_validate(changes)
    return renewed_options(open_artifact(folder), tmp_path / "renewal", options)


def test_a_renewal_uses_the_options_of_the_import(tmp_path: Path) -> None:
    root = tmp_path / "artifact"
    write_artifact(root, contents() | {"preprocessing/requirements.txt": b"x==1"})
    evidence = json.loads((root / "evidence.json").read_bytes())
    evidence["reference"] = "given"
    evidence["engines"][0]["certificate"]["tolerance"] = 0.25
    (root / "evidence.json").write_text(json.dumps(evidence))

    options = renewed(root, tmp_path, gate_agreement="0.5")

    assert (options.network, options.network_kwargs) == ("torchvision:resnet18", {"num_classes": 2})
    assert options.preprocessing == f"{root}/preprocessing/own/own.py:Own"
    assert options.serving_requirements is not None
    assert options.serving_requirements.read_bytes() == b"x==1"
    assert (options.device, options.engine, options.precision) == ("cpu", "openvino", "auto")
    assert (options.gate_fp32_tolerance, options.gate_agreement) == (0.25, 0.5)
    assert (options.activation, options.threshold, options.budget_ms) == ("softmax", None, 50)
    assert (options.golden / "who knows.jpg").read_bytes() == b"second picture"
    assert options.golden_labels is not None
    assert options.golden_labels.read_text() == "file,class_index\nant.png,0\n"
    reference = np.load(tmp_path / "renewal" / "reference.npz")
    assert reference["files"].tolist() == ["ant.png", "who knows.jpg"]
    assert reference["logits"].tolist() == [[1, 2], [3, 4]]

    (tmp_path / "renewal").rename(tmp_path / "first")
    (tmp_path / "other.txt").write_bytes(b"x==2")
    changes = {"device": "cuda", "serving_requirements": tmp_path / "other.txt"}
    other = renewed(root, tmp_path, **changes)

    # Another device has other engines.
    assert (other.device, other.engine, other.precision) == ("cuda", "auto", "auto")
    assert other.serving_requirements == tmp_path / "other.txt"


@pytest.mark.parametrize("name", ["../../evil.png", "/evil.png", "ant.png"])
def test_a_renewal_writes_no_golden_image_outside_its_folder_or_over_another(
    tmp_path: Path, name: str
) -> None:
    root = tmp_path / "artifact"
    write_artifact(root)
    golden = json.loads((root / "manifest.json").read_bytes())["golden"]
    golden[1]["name"] = name
    edit_json(root / "manifest.json", golden=golden)
    reseal(root)

    with pytest.raises(ImportRefused, match="its name leaves the folder"):
        renewed(root, tmp_path)
