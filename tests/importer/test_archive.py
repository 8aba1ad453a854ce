"""An artifact carried as one file: the same bytes, and the same artifact elsewhere."""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.store import lock_of
from importer.archive import pack
from model_import import main
from tests.artifact.builder import OWN, RECORD, SLO, contents, write_artifact
from tests.imports import isolated_store

Members = dict[str, bytes]
Output = pytest.CaptureFixture[str]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "artifact")
    (tmp_path / "artifact" / "record.json").write_bytes(RECORD.to_json())
    return tmp_path / "artifact"


@pytest.fixture
def archive(artifact: Path, tmp_path: Path) -> Path:
    pack(open_artifact(artifact), tmp_path / "insects.tar")
    return tmp_path / "insects.tar"


@pytest.fixture
def empty_store(tmp_path: Path) -> Iterator[Path]:
    with isolated_store(tmp_path / "elsewhere") as home:
        yield home


def members(path: Path) -> Members:
    with tarfile.open(path, "r:") as source:
        return {it.name: data.read() for it in source if (data := source.extractfile(it))}


def written(path: Path, contents: Members, mode: Literal["w", "w:gz"] = "w") -> Path:
    with tarfile.open(path, mode) as target:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
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
    pack(open_artifact(artifact), tmp_path / "again.tar")

    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()
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
    assert main(["pack", lock.tag, str(tmp_path / "new.tar"), "--json"]) == 0
    assert (tmp_path / "new.tar").read_bytes() == archive.read_bytes()
    (tmp_path / "new.tar").write_text("years of work")
    assert main(["pack", lock.tag, str(tmp_path / "new.tar"), "--quiet"]) == 1
    assert "new.tar: exists; give another name" in capsys.readouterr().err
    assert (tmp_path / "new.tar").read_text() == "years of work"


@pytest.mark.parametrize("known", [False, True])
def test_a_signature_travels_with_the_artifact(
    archive: Path, empty_store: Path, tmp_path: Path, known: bool
) -> None:
    signed = written(tmp_path / "signed.tar", members(archive) | {"model.sig": b"a signature"})
    if known:
        main(["unpack", str(archive), "--quiet"])

    assert main(["unpack", str(signed), "--quiet"]) == 0

    (arrived,) = (empty_store / "models" / "insects").glob("*/")
    assert (arrived / "model.sig").read_bytes() == b"a signature"
    pack(open_artifact(arrived), tmp_path / "again.tar")
    assert members(tmp_path / "again.tar")["model.sig"] == b"a signature"


def test_nothing_of_an_archive_is_run(empty_store: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    own = f"open({str(marker)!r}, 'w')\n".encode() + OWN
    write_artifact(tmp_path / "evil", {**contents(), "preprocessing/own/own.py": own})
    pack(open_artifact(tmp_path / "evil"), tmp_path / "evil.tar")

    assert main(["unpack", str(tmp_path / "evil.tar"), "--quiet"]) == 0

    assert not marker.exists()


def changed(name: str, change: Callable[[bytes], bytes]) -> Callable[[Members], Members]:
    return lambda files: {**files, name: change(files[name])}


def without(name: str) -> Callable[[Members], Members]:
    return lambda files: {key: data for key, data in files.items() if key != name}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda files: files | {"../escaped": b"x"}, "no complete archive of `pack`"),
        (lambda files: files | {"more.txt": b"x"}, "more.txt"),
        (lambda files: files | {"slo.json": b"x"}, "'slo.json' is no file of an artifact"),
        (without("labels.json"), "labels.json"),
        (without("manifest.json"), "manifest.json"),
        (changed("labels.json", lambda data: data[:-1] + b"?"), "changed: labels.json (sha256 is"),
        (changed("manifest.json", lambda data: b"[]"), "manifest.json: the file: Input should"),
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
    spoiled = written(tmp_path / "spoiled.tar", change(members(archive)))

    assert reason in refused(spoiled, empty_store, capsys)

    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path.parent / "escaped").exists()


def spoiled_container(kind: str, path: Path, contents: Members) -> Path:
    if kind == "compressed":
        return written(path, contents, "w:gz")
    written(path, contents)
    data = path.read_bytes()
    if kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    if kind == "bit":
        at = data.index(b'"schema_version"')
        path.write_bytes(data[:at] + b"?" + data[at + 1 :])
    if kind == "text":
        path.write_text("not an archive")
    if kind in ("link", "pipe", "claims"):
        more = tarfile.TarInfo("labels.json")
        more.type = {"link": tarfile.SYMTYPE, "pipe": tarfile.FIFOTYPE}.get(kind, tarfile.REGTYPE)
        more.linkname, more.size = "/etc/hostname", (1 << 40) * (kind == "claims")
        path.write_bytes(more.tobuf() + data)
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("link", "'labels.json' is no file of an artifact"),
        ("pipe", "'labels.json' is no file of an artifact"),
        ("claims", "no complete archive of `pack`"),
        ("compressed", "no complete archive of `pack`"),
        ("cut", "spoiled.tar: missing: "),
        ("bit", "spoiled.tar/evidence.json: "),
        ("text", "no complete archive of `pack`"),
    ],
)
def test_a_container_that_pack_does_not_write_is_refused(
    archive: Path, empty_store: Path, tmp_path: Path, capsys: Output, kind: str, reason: str
) -> None:
    spoiled = spoiled_container(kind, tmp_path / "spoiled.tar", members(archive))

    assert reason in refused(spoiled, empty_store, capsys)


def test_another_artifact_than_the_one_of_the_digest_is_refused(
    archive: Path, empty_store: Path, capsys: Output
) -> None:
    assert f"expected {'0' * 64}" in refused(archive, empty_store, capsys, "--digest", "0" * 64)
