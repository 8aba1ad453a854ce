"""An artifact carried as one file: the same bytes, and the same artifact elsewhere."""

import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.store import lock_of
from importer.archive import pack
from model_import import main
from tests.artifact.builder import OWN, RECORD, SLO, contents, write_artifact
from tests.imports import isolated_store

FIRST = (1980, 1, 1, 0, 0, 0)
Members = dict[str, bytes]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "artifact")
    (tmp_path / "artifact" / "record.json").write_bytes(RECORD.to_json())
    return tmp_path / "artifact"


@pytest.fixture
def archive(artifact: Path, tmp_path: Path) -> Path:
    pack(open_artifact(artifact), tmp_path / "insects.zip")
    return tmp_path / "insects.zip"


@pytest.fixture
def empty_store(tmp_path: Path) -> Iterator[Path]:
    with isolated_store(tmp_path / "elsewhere") as home:
        yield home


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


def test_an_archive_holds_the_files_of_the_artifact_the_same_bytes_each_time(
    artifact: Path, archive: Path, tmp_path: Path
) -> None:
    os.utime(artifact / "labels.json", (1, 1))
    (artifact / "model.yaml").write_text("of BentoML")
    (artifact / "slo.json").write_bytes(SLO.to_json())
    pack(open_artifact(artifact), tmp_path / "again.zip")

    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    expected = {*contents(), "manifest.json", "evidence.json", "record.json"}
    assert members(archive) == {name: (artifact / name).read_bytes() for name in expected}
    with zipfile.ZipFile(archive) as opened:
        infos = opened.infolist()
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    assert {info.date_time for info in infos} == {FIRST}
    assert {info.external_attr >> 16 for info in infos} == {stat.S_IFREG | 0o644}
    assert not list(tmp_path.glob("*.part"))


def test_an_existing_file_is_not_overwritten(
    archive: Path, empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["unpack", str(archive), "--quiet"])
    tag = capsys.readouterr().out.splitlines()[0].removeprefix("unpacked: ")
    path = tmp_path / "thesis.zip"
    path.write_text("years of work")

    assert main(["pack", tag, str(path), "--quiet"]) == 1

    assert "thesis.zip: exists; give another name" in capsys.readouterr().err
    assert path.read_text() == "years of work"
    assert main(["pack", tag, str(tmp_path / "new.zip"), "--json"]) == 0
    assert (tmp_path / "new.zip").read_bytes() == archive.read_bytes()


def test_an_archive_becomes_the_same_artifact_in_another_store(
    archive: Path, artifact: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = lock_of(open_artifact(artifact))

    assert main(["unpack", str(archive), "--digest", lock.manifest_sha256, "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == {**lock.model_dump(), "known": False}
    found = empty_store / "models" / lock.tag.replace(":", "/")
    assert lock_of(open_artifact(found)) == lock
    assert (found / "record.json").read_bytes() == (artifact / "record.json").read_bytes()
    assert main(["unpack", str(archive), "--quiet"]) == 0
    assert "already in the store: insects:" in capsys.readouterr().out


@pytest.mark.parametrize("known", [False, True])
def test_a_signature_travels_with_the_artifact(
    archive: Path, empty_store: Path, tmp_path: Path, known: bool
) -> None:
    signed = written(tmp_path / "signed.zip", members(archive) | {"model.sig": b"a signature"})
    if known:
        main(["unpack", str(archive), "--quiet"])

    assert main(["unpack", str(signed), "--quiet"]) == 0

    (arrived,) = (empty_store / "models" / "insects").glob("*/")
    assert (arrived / "model.sig").read_bytes() == b"a signature"
    pack(open_artifact(arrived), tmp_path / "again.zip")
    assert members(tmp_path / "again.zip")["model.sig"] == b"a signature"


def test_nothing_of_an_archive_is_run(empty_store: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    own = f"open({str(marker)!r}, 'w')\n".encode() + OWN
    write_artifact(tmp_path / "evil", {**contents(), "preprocessing/own/own.py": own})
    pack(open_artifact(tmp_path / "evil"), tmp_path / "evil.zip")

    assert main(["unpack", str(tmp_path / "evil.zip"), "--quiet"]) == 0

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
        (lambda files: files | {"extra.py": b"x"}, "('extra.py')"),
        (lambda files: files | {"model.yaml": b"x"}, "('model.yaml')"),
        (lambda files: files | {"slo.json": b"{}"}, "('slo.json')"),
        (lambda files: files | {"folder/": b""}, "'folder/' is no plain file"),
        (lambda files: {k: v for k, v in files.items() if k != "labels.json"}, "('labels.json')"),
        (lambda files: {k: v for k, v in files.items() if k != "manifest.json"}, "manifest.json"),
        (changed("labels.json", flipped), "changed: labels.json (sha256 is "),
        (changed("manifest.json", lambda data: b"[]"), "schema version is None"),
        (changed("evidence.json", lambda data: b"{}"), "evidence.json"),
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
    if kind == "claims":
        # The list at the end names the uncompressed size of each file 22 bytes before the name.
        at = data.rindex(b"labels.json") - 22
        path.write_bytes(data[:at] + (1 << 30).to_bytes(4, "little") + data[at + 4 :])
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
        ("claims", "claim 1073"),
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

    assert "no complete archive" in refused(tmp_path / "notes.txt", empty_store, capsys)
