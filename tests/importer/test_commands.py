"""verify, show and list: what a person and a program are told, and the exit status."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import sha256_bytes
from model_import import main
from tests.imports import isolated_store

Output = pytest.CaptureFixture[str]


@pytest.fixture
def copied(digits_folder: Path, tmp_path: Path) -> Iterator[Path]:
    """The digits artifact in a store of its own, to be spoiled."""
    with isolated_store(tmp_path / "copy") as home:
        target = home / "models" / "digits" / digits_folder.name
        shutil.copytree(digits_folder, target)
        yield target


def tag(folder: Path) -> str:
    return f"digits:{folder.name}"


def test_verify_runs_every_certificate_again(copied: Path, capsys: Output) -> None:
    status = main(["verify", tag(copied), "--json"])

    found = json.loads(capsys.readouterr().out)
    assert status == 0
    assert found["tag"] == tag(copied)
    assert [row["engine"] for row in found["engines"]] == ["openvino-fp32", "onnxruntime-fp32"]
    for row in found["engines"]:
        assert row.keys() == {
            "engine",
            "verdict",
            "reason",
            "max_logit_difference",
            "max_probability_difference",
            "top1_agreement",
            "label_agreement",
        }
        assert (row["verdict"], row["reason"], row["top1_agreement"]) == ("passed", "", 1.0)
        assert 0 <= row["max_logit_difference"] < 1e-3


def test_verify_prints_a_table(copied: Path, capsys: Output) -> None:
    assert main(["verify", tag(copied), "--quiet"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[0::4] == ["openvino-fp32", "passed"]
    assert lines[-1] == f"verified: {tag(copied)}"


@pytest.mark.parametrize(
    "name",
    [
        "engines/network.onnx",
        "golden/0000.png",
        "golden/logits.npy",
        "labels.json",
        "manifest.json",
        "evidence.json",
        "preprocessing/own/preprocessing.py",
        "architecture/network.py",
        "weights.safetensors",
    ],
)
def test_one_flipped_bit_anywhere_fails_the_verification(
    copied: Path, capsys: Output, name: str
) -> None:
    path = copied / name if (copied / name).exists() else next(copied.glob(f"{name[:12]}*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    status = main(["verify", tag(copied), "--quiet"])

    out, err = capsys.readouterr()
    assert status == 1
    assert out == ""
    assert err.startswith("model_import: ")
    # A manifest that is still one is another than the evidence belongs to.
    blamed = (f"{name}: ", f"changed: {path.relative_to(copied).as_posix()} ")
    if name == "manifest.json":
        blamed = (*blamed, "evidence.json: ")
    assert any(text in err for text in blamed)


def with_logits(folder: Path, change: Any) -> Path:
    """An artifact whose golden logits are others, with digests that fit: only running tells."""
    logits = np.load(folder / "golden" / "logits.npy")
    np.save(folder / "golden" / "logits.npy", change(logits))
    evidence = json.loads((folder / "evidence.json").read_bytes())
    data = (folder / "golden" / "logits.npy").read_bytes()
    evidence["reference_logits_sha256"] = sha256_bytes(data)
    (folder / "evidence.json").write_text(json.dumps(evidence))
    return folder


def test_verify_fails_where_an_engine_no_longer_gives_the_reference(
    copied: Path, capsys: Output
) -> None:
    folder = with_logits(copied, lambda logits: logits + np.float32(0.5))

    status = main(["verify", tag(folder), "--json"])

    rows = json.loads(capsys.readouterr().out)["engines"]
    assert status == 1
    assert {row["verdict"] for row in rows} == {"failed"}
    for row in rows:
        assert row["max_logit_difference"] == pytest.approx(0.5, abs=1e-3)
        assert "batch size 1: a logit is off by" in row["reason"]


def test_an_engine_that_cannot_run_here_is_a_row_with_its_reason(
    copied: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        __import__("sys").modules, "image_classifier.inference.engines.onnxruntime", None
    )

    status = main(["verify", tag(copied), "--json"])

    rows = {row["engine"]: row for row in json.loads(capsys.readouterr().out)["engines"]}
    assert status == 1
    assert rows["openvino-fp32"]["verdict"] == "passed"
    assert rows["onnxruntime-fp32"]["verdict"] == "unavailable"
    assert "is not installed" in rows["onnxruntime-fp32"]["reason"]


def test_show_tells_what_it_is_and_how_it_was_proven(copied: Path, capsys: Output) -> None:
    assert main(["show", tag(copied)]) == 0

    page = capsys.readouterr().out
    for words in (
        tag(copied),
        open_artifact(copied).digest,
        "network.py:build",
        "class DigitsPreprocessing in preprocessing/own/preprocessing.py",
        "10: 0, 1, 2, …",
        "30 with a known class",
        "openvino-fp32",
        "onnxruntime-fp32",
    ):
        assert words in page


def test_show_prints_no_control_characters_of_the_record(copied: Path, capsys: Output) -> None:
    record = json.loads((copied / "record.json").read_bytes())
    record["command"] = "import \x1b[31mred\x07 [bold]"
    (copied / "record.json").write_text(json.dumps(record))

    main(["show", tag(copied)])

    assert "import ·[31mred· [bold]" in capsys.readouterr().out


def test_show_as_json_has_manifest_evidence_and_record(copied: Path, capsys: Output) -> None:
    main(["show", tag(copied), "--json"])

    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {
        *("tag", "manifest_sha256", "evidence_sha256", "manifest", "evidence", "record")
    }
    assert found["manifest"] == json.loads((copied / "manifest.json").read_bytes())
    assert found["evidence"] == json.loads((copied / "evidence.json").read_bytes())
    assert found["record"] == json.loads((copied / "record.json").read_bytes())


def test_list_has_one_line_an_artifact_and_leaves_other_models_out(
    copied: Path, capsys: Output
) -> None:
    other = copied.parents[1] / "other" / "abc"
    other.mkdir(parents=True)
    (other / "model.yaml").write_text("name: other\n")

    main(["list", "--json"])

    assert json.loads(capsys.readouterr().out) == [
        {
            "tag": tag(copied),
            "classes": 10,
            "engines": ["openvino-fp32", "onnxruntime-fp32"],
            "imported_at": "2026-01-01",
            "problem": None,
        }
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("manifest.json", b"{", "manifest.json: not JSON"),
        ("manifest.json", b'{"schema_version": 9}', "schema version is 9"),
        ("record.json", b"{}", "record.json: "),
        ("model.yaml", None, "does not contain a 'model.yaml'"),
    ],
)
def test_what_cannot_be_described_is_a_row_with_its_reason(
    copied: Path, capsys: Output, name: str, content: bytes | None, reason: str
) -> None:
    other = copied.parents[1] / "other" / "abc"
    shutil.copytree(copied, other)
    (other / name).unlink()
    if content is not None:
        (other / name).write_bytes(content)

    status = main(["list", "--json"])
    rows = {row["tag"]: row for row in json.loads(capsys.readouterr().out)}
    main(["list"])
    page = capsys.readouterr().out

    assert status == 0
    assert rows[tag(copied)]["classes"] == 10
    assert reason in rows["other:abc"]["problem"]
    assert reason in page
    assert page.count(tag(copied)) == 1


def test_a_folder_of_the_store_that_is_no_tag_is_a_row(copied: Path, capsys: Output) -> None:
    (copied.parents[1] / "A [b]\x1b" / "c").mkdir(parents=True)
    (copied.parents[1] / "A [b]\x1b" / "c" / "manifest.json").write_text("[]")

    assert main(["list"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("A [b]·:c ")
    assert lines[2].startswith(tag(copied))
    assert lines[3].startswith("A [b]·:c: model store: ")


def test_a_tag_that_is_not_there_is_one_line(copied: Path, capsys: Output) -> None:
    for command in ("verify", "show"):
        assert main([command, "digits:0000000000000000", "--quiet"]) == 1
        assert capsys.readouterr().err.startswith(
            "model_import: model store: digits:0000000000000000 is not there"
        )
