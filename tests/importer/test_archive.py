"""An artifact carried as one file: the same bytes, and the same artifact elsewhere."""

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from image_classifier.artifact.artifact import open_artifact
from importer.archive import pack
from model_import import main

FIRST = (1980, 1, 1, 0, 0, 0)
Members = dict[str, bytes]


def members(path: Path) -> Members:
    with zipfile.ZipFile(path) as source:
        return {name: source.read(name) for name in source.namelist()}


def written(path: Path, contents: Members) -> Path:
    with zipfile.ZipFile(path, "w") as target:
        for name, data in contents.items():
            target.writestr(zipfile.ZipInfo(name, FIRST), data)
    return path


def refused(path: Path, store: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The one line of a refused archive; the store is as empty as before."""
    assert main(["unpack", str(path), "--quiet", *more]) == 1
    assert [path for path in store.rglob("*") if path.is_file()] == []
    assert [path.name for path in store.iterdir()] == ["models"]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_the_same_artifact_gives_the_same_archive(digits_folder: Path, tmp_path: Path) -> None:
    artifact = open_artifact(digits_folder)
    paths = [tmp_path / "one.zip", tmp_path / "two.zip"]
    for path in paths:
        pack(artifact, path)
        os.utime(digits_folder / "labels.json", (1, 1))

    first, second = (path.read_bytes() for path in paths)

    assert first == second
    assert {path.name for path in tmp_path.iterdir()} >= {"one.zip", "two.zip"}
    assert not list(tmp_path.glob("*.part"))


def test_an_archive_holds_the_files_of_the_artifact_and_no_others(
    archive: Path, digits_folder: Path
) -> None:
    on_disk = {
        path.relative_to(digits_folder).as_posix(): path.read_bytes()
        for path in digits_folder.rglob("*")
        if path.is_file() and path.name != "model.yaml"
    }

    assert members(archive) == on_disk
    with zipfile.ZipFile(archive) as opened:
        infos = opened.infolist()
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    assert {info.date_time for info in infos} == {FIRST}
    assert {info.external_attr >> 16 for info in infos} == {stat.S_IFREG | 0o644}


def test_an_existing_file_is_not_overwritten(digits_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "thesis.zip"
    path.write_text("years of work")

    with pytest.raises(Exception, match=r"thesis\.zip: exists; give another name"):
        pack(open_artifact(digits_folder), path)

    assert path.read_text() == "years of work"


def test_an_archive_becomes_the_same_artifact_in_another_store(
    archive: Path, digits_folder: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = open_artifact(digits_folder)
    digest, evidence_digest = artifact.digest, artifact.evidence_digest

    assert main(["unpack", str(archive), "--digest", digest, "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == {
        "schema_version": 2,
        "tag": f"digits:{digits_folder.name}",
        "manifest_sha256": digest,
        "evidence_sha256": evidence_digest,
        "known": False,
    }
    found = empty_store / "models" / "digits" / digits_folder.name
    assert open_artifact(found, digest, evidence_digest).manifest == artifact.manifest
    assert (found / "record.json").read_bytes() == (digits_folder / "record.json").read_bytes()
    assert main(["unpack", str(archive), "--quiet"]) == 0
    assert "already in the store: digits:" in capsys.readouterr().out


@pytest.mark.parametrize("known", [False, True])
def test_a_signature_travels_with_the_artifact(
    archive: Path, empty_store: Path, digits_folder: Path, tmp_path: Path, known: bool
) -> None:
    signed = written(tmp_path / "signed.zip", members(archive) | {"model.sig": b"a signature"})
    if known:
        main(["unpack", str(archive), "--quiet"])

    assert main(["unpack", str(signed), "--quiet"]) == 0

    arrived = empty_store / "models" / "digits" / digits_folder.name
    assert (arrived / "model.sig").read_bytes() == b"a signature"
    pack(open_artifact(arrived), tmp_path / "again.zip")
    assert members(tmp_path / "again.zip")["model.sig"] == b"a signature"


def test_the_lock_is_written_only_when_asked_for(
    archive: Path, empty_store: Path, tmp_path: Path, digits_folder: Path
) -> None:
    lock = tmp_path / "model.lock"
    main(["unpack", str(archive), "--quiet"])
    before = lock.exists()

    main(["unpack", str(archive), "--quiet", "--lock", str(lock)])

    assert not before
    assert json.loads(lock.read_bytes())["tag"] == f"digits:{digits_folder.name}"


def test_a_lock_that_cannot_be_written_is_found_before_the_store_changes(
    archive: Path, empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(archive, empty_store, capsys, "--lock", str(tmp_path))

    assert "is no file" in text


def test_nothing_of_an_archive_is_run(
    archive: Path, empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = members(archive)
    manifest = json.loads(contents["manifest.json"])
    marker = tmp_path / "ran"
    own = manifest["preprocessing"]["file"]
    contents[own] = f"open({str(marker)!r}, 'w')\n".encode()
    manifest["files"][own] = hashlib.sha256(contents[own]).hexdigest()
    contents["manifest.json"] = json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n"
    evidence = json.loads(contents["evidence.json"])
    evidence["identity_sha256"] = hashlib.sha256(contents["manifest.json"]).hexdigest()
    contents["evidence.json"] = json.dumps(evidence).encode()

    assert main(["unpack", str(written(tmp_path / "own.zip", contents)), "--quiet"]) == 0

    assert "unpacked: digits:" in capsys.readouterr().out
    assert not marker.exists()


def test_another_digest_than_the_expected_one_is_refused(
    archive: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(archive, empty_store, capsys, "--digest", "0" * 64)

    assert "expected " + "0" * 64 in text


def changed(name: str, change: Callable[[bytes], bytes]) -> Callable[[Members], Members]:
    return lambda contents: {**contents, name: change(contents[name])}


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def with_plan(engine: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        record = json.loads(data)
        record["plan"]["engine"] = engine
        return json.dumps(record).encode()

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda files: files | {"../escaped": b"x"}, "('../escaped')"),
        (lambda files: files | {"/tmp/escaped": b"x"}, "('/tmp/escaped')"),
        (lambda files: files | {"a/../../escaped": b"x"}, "('a/../../escaped')"),
        (lambda files: files | {"extra.py": b"x"}, "('extra.py')"),
        (lambda files: files | {"model.yaml": b"x"}, "('model.yaml')"),
        (lambda files: files | {"slo.json": b"{}"}, "('slo.json')"),
        (lambda files: files | {"folder/": b""}, "'folder/' is no plain file"),
        (lambda files: {k: v for k, v in files.items() if k != "labels.json"}, "('labels.json')"),
        (lambda files: {k: v for k, v in files.items() if k != "manifest.json"}, "manifest.json"),
        (changed("labels.json", flipped), "changed: labels.json (sha256 is "),
        (changed("engines/network.onnx", flipped), "changed: engines/network.onnx (sha256 is "),
        (changed("manifest.json", lambda data: b"[]"), "schema version is None"),
        (changed("evidence.json", lambda data: b"{}"), "evidence.json"),
        (changed("golden/logits.npy", flipped), "changed: golden/logits.npy"),
        (lambda files: {k: v for k, v in files.items() if k != "evidence.json"}, "evidence.json"),
        (changed("record.json", lambda data: b"{}"), "record.json"),
        (changed("record.json", with_plan("torchscript-int8")), "which is not certified"),
    ],
)  # fmt: skip
def test_an_archive_that_is_not_what_its_manifest_says_leaves_the_store_as_it_was(
    archive: Path,
    empty_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Members], Members],
    reason: str,
) -> None:
    spoiled = written(tmp_path / "spoiled.zip", change(members(archive)))

    assert reason in refused(spoiled, empty_store, capsys)

    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path.parent / "escaped").exists()


def spoiled_container(kind: str, path: Path, contents: Members) -> Path:
    with zipfile.ZipFile(path, "w") as target:
        for name, data in contents.items():
            info = zipfile.ZipInfo(name, FIRST)
            if name == "labels.json" and kind == "link":
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            if name == "labels.json" and kind == "compressed":
                info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, data)
        if kind == "twice":
            with pytest.warns(UserWarning, match="Duplicate name"):
                target.writestr("labels.json", b"[]")
    data = path.read_bytes()
    if kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    if kind == "bit":
        at = data.index(b'"schema_version"')
        path.write_bytes(data[:at] + b"?" + data[at + 1 :])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("link", "'labels.json' is no plain file"),
        ("compressed", "'labels.json' is compressed"),
        ("twice", "holds a name twice"),
        ("cut", "no complete archive of `pack`"),
        ("bit", "no complete archive of `pack`"),
    ],
)
def test_a_container_that_pack_does_not_write_is_refused(
    archive: Path,
    empty_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    reason: str,
) -> None:
    spoiled = spoiled_container(kind, tmp_path / "spoiled.zip", members(archive))

    assert reason in refused(spoiled, empty_store, capsys)


def test_a_signature_that_is_too_large_is_refused_before_it_is_written(
    archive: Path,
    empty_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contents = members(archive)
    limit = max(len(contents["manifest.json"]), len(contents["record.json"]))
    monkeypatch.setattr("importer.archive.MAX_DESCRIPTION_BYTES", limit)
    spoiled = written(tmp_path / "spoiled.zip", contents | {"model.sig": b"x" * (limit + 1)})

    assert "'model.sig' is too large" in refused(spoiled, empty_store, capsys)


def test_what_is_no_archive_is_refused_with_one_line(
    empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("not a zip archive")

    for name in ("notes.txt", "absent.zip"):
        assert "no complete archive" in refused(tmp_path / name, empty_store, capsys)
