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
Output = pytest.CaptureFixture[str]


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


def refused(path: Path, store: Path, capsys: Output, *more: str) -> str:
    """The one line of a refused archive; the store is as empty as before."""
    assert main(["unpack", str(path), "--quiet", *more]) == 1
    assert [path for path in store.rglob("*") if path.is_file()] == []
    assert [path.name for path in store.iterdir()] == ["models"]
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
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
    assert not list(tmp_path.glob("*.part"))


def test_an_archive_becomes_the_same_artifact_in_another_store(
    archive: Path, artifact: Path, empty_store: Path, tmp_path: Path, capsys: Output
) -> None:
    lock = lock_of(open_artifact(artifact))

    assert main(["unpack", str(archive), "--digest", lock.manifest_sha256, "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == {**lock.model_dump(), "known": False}
    found = empty_store / "models" / lock.tag.replace(":", "/")
    assert lock_of(open_artifact(found)) == lock
    assert (found / "record.json").read_bytes() == (artifact / "record.json").read_bytes()
    assert main(["unpack", str(archive), "--quiet"]) == 0
    assert "already in the store: insects:" in capsys.readouterr().out

    # Packed again it is the same file; one that exists is not overwritten.
    assert main(["pack", lock.tag, str(tmp_path / "new.zip"), "--json"]) == 0
    assert (tmp_path / "new.zip").read_bytes() == archive.read_bytes()
    (tmp_path / "new.zip").write_text("years of work")
    assert main(["pack", lock.tag, str(tmp_path / "new.zip"), "--quiet"]) == 1
    assert "new.zip: exists; give another name" in capsys.readouterr().err
    assert (tmp_path / "new.zip").read_text() == "years of work"


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


def changed(name: str, change: Callable[[bytes], bytes]) -> Callable[[Members], Members]:
    return lambda files: {**files, name: change(files[name])}


def without(name: str) -> Callable[[Members], Members]:
    return lambda files: {key: data for key, data in files.items() if key != name}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda files: files | {"../escaped": b"x"}, "('../escaped')"),
        (lambda files: files | {"/tmp/escaped": b"x"}, "('/tmp/escaped')"),
        (lambda files: files | {"model.yaml": b"x"}, "('model.yaml')"),
        (without("labels.json"), "('labels.json')"),
        (without("manifest.json"), "manifest.json"),
        (changed("labels.json", lambda data: data[:-1] + b"?"), "changed: labels.json (sha256 is"),
        (changed("manifest.json", lambda data: b"[]"), "schema version is None"),
        (changed("evidence.json", lambda data: b"{}"), "evidence.json"),
        (changed("record.json", lambda data: b"{}"), "record.json"),
    ],
)
def test_an_archive_that_is_not_what_its_manifest_says_leaves_the_store_as_it_was(
    archive: Path,
    empty_store: Path,
    tmp_path: Path,
    capsys: Output,
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
                info.external_attr, data = (stat.S_IFLNK | 0o777) << 16, b"/etc/hostname"
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
    if kind == "text":
        path.write_text("not a zip archive")
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("link", "changed: labels.json"),  # a plain file that holds the target's name
        ("compressed", "is compressed or too large"),
        ("claims", "is compressed or too large"),
        ("twice", "no complete archive of `pack`"),
        ("cut", "no complete archive of `pack`"),
        ("bit", "no complete archive of `pack`"),
        ("text", "no complete archive of `pack`"),
    ],
)
def test_a_container_that_pack_does_not_write_is_refused(
    archive: Path, empty_store: Path, tmp_path: Path, capsys: Output, kind: str, reason: str
) -> None:
    spoiled = spoiled_container(kind, tmp_path / "spoiled.zip", members(archive))

    assert reason in refused(spoiled, empty_store, capsys)


def test_another_digest_and_a_signature_that_is_too_large_are_refused_before_they_are_written(
    archive: Path,
    empty_store: Path,
    tmp_path: Path,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = members(archive)
    limit = max(len(files["manifest.json"]), len(files["record.json"]))
    monkeypatch.setattr("importer.archive.MAX_DESCRIPTION_BYTES", limit)
    signed = written(tmp_path / "spoiled.zip", files | {"model.sig": b"x" * (limit + 1)})

    assert "too large" in refused(signed, empty_store, capsys)
    assert f"expected {'0' * 64}" in refused(archive, empty_store, capsys, "--digest", "0" * 64)
