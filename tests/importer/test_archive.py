"""Artifacts packed into one file: reproducible, and the same artifact in another store."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Literal

import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.store import lock_of
from importer.archive import pack
from model_import import main
from tests.artifact.builder import OWN, SLO, contents, write_artifact

Members = dict[str, bytes]
Output = pytest.CaptureFixture[str]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "artifact")
    return tmp_path / "artifact"


@pytest.fixture
def archive(artifact: Path, tmp_path: Path) -> Path:
    pack(open_artifact(artifact), tmp_path / "insects.tar")
    return tmp_path / "insects.tar"


def members(path: Path) -> Members:
    with tarfile.open(path, "r:") as source:
        return {item.name: data.read() for item in source if (data := source.extractfile(item))}


def write_archive(path: Path, contents: Members, mode: Literal["w", "w:gz"] = "w") -> Path:
    with tarfile.open(path, mode) as target:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
    return path


def refusal(path: Path, store: Path, capsys: Output, *more: str) -> str:
    """Return the one line of a refused archive; the store stays empty."""
    assert main(["unpack", str(path), "--quiet", *more]) == 1
    assert [path.name for path in store.rglob("*")] == ["models"]
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_an_archive_holds_the_files_of_the_artifact_and_is_reproducible(
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
    archive: Path, artifact: Path, store: Path, tmp_path: Path, capsys: Output
) -> None:
    lock = lock_of(open_artifact(artifact))

    assert main(["unpack", str(archive), "--digest", lock.manifest_sha256, "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == {**lock.model_dump(), "known": False}
    found = store / "models" / lock.tag.replace(":", "/")
    assert lock_of(open_artifact(found)) == lock
    assert (found / "record.json").read_bytes() == (artifact / "record.json").read_bytes()
    assert main(["unpack", str(archive), "--quiet"]) == 0
    assert "already in the store: insects:" in capsys.readouterr().out

    # Packed again it is the same file; an existing file is not overwritten.
    assert main(["pack", lock.tag, str(tmp_path / "new.tar"), "--json"]) == 0
    assert (tmp_path / "new.tar").read_bytes() == archive.read_bytes()
    (tmp_path / "new.tar").write_text("years of work")
    assert main(["pack", lock.tag, str(tmp_path / "new.tar"), "--quiet"]) == 1
    assert "new.tar: exists; give another name" in capsys.readouterr().err
    assert (tmp_path / "new.tar").read_text() == "years of work"


@pytest.mark.parametrize("known", [False, True])
def test_a_signature_travels_with_the_artifact(
    archive: Path, store: Path, tmp_path: Path, known: bool
) -> None:
    signed = write_archive(tmp_path / "signed.tar", members(archive) | {"model.sig": b"signature"})
    if known:
        main(["unpack", str(archive), "--quiet"])

    assert main(["unpack", str(signed), "--quiet"]) == 0

    (arrived,) = (store / "models" / "insects").glob("*/")
    pack(open_artifact(arrived), tmp_path / "again.tar")
    assert members(tmp_path / "again.tar")["model.sig"] == b"signature"


def test_unpacking_runs_nothing(store: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    own = f"open({str(marker)!r}, 'w')\n".encode() + OWN
    write_artifact(tmp_path / "evil", {**contents(), "preprocessing/own/own.py": own})
    pack(open_artifact(tmp_path / "evil"), tmp_path / "evil.tar")

    assert main(["unpack", str(tmp_path / "evil.tar"), "--quiet"]) == 0

    assert not marker.exists()


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ({"../escaped": b"x"}, "not a complete archive made by `pack`"),
        ({"slo.json": b"x"}, "'slo.json' is not an artifact file"),
        ({"labels.json": b"x"}, "spoiled.tar: changed: labels.json (sha256 is"),
        ({"record.json": b"{}"}, "spoiled.tar/record.json: "),
        ({"a\x1b[31mred": b"x"}, "extra: a·[31mred"),
    ],
)
def test_an_archive_that_differs_from_its_manifest_is_refused(
    archive: Path, store: Path, tmp_path: Path, capsys: Output, added: Members, reason: str
) -> None:
    spoiled = write_archive(tmp_path / "spoiled.tar", members(archive) | added)

    assert reason in refusal(spoiled, store, capsys)

    assert not list(tmp_path.rglob("escaped"))


def spoil(kind: str, path: Path, contents: Members) -> None:
    data = write_archive(path, contents).read_bytes()
    if kind == "compressed":
        write_archive(path, contents, "w:gz")
    elif kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "text":
        path.write_text("not an archive")
    else:
        member = tarfile.TarInfo("labels.json")
        member.type = {"link": tarfile.SYMTYPE, "pipe": tarfile.FIFOTYPE}.get(kind, tarfile.REGTYPE)
        member.linkname, member.size = "/etc/hostname", (1 << 40) * (kind == "huge member")
        path.write_bytes(member.tobuf() + data)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("link", "'labels.json' is not an artifact file"),
        ("pipe", "'labels.json' is not an artifact file"),
        ("huge member", "not a complete archive made by `pack`"),
        ("compressed", "not a complete archive made by `pack`"),
        ("truncated", "spoiled.tar: missing: "),
        ("text", "not a complete archive made by `pack`"),
    ],
)
def test_a_container_that_pack_does_not_write_is_refused(
    archive: Path, store: Path, tmp_path: Path, capsys: Output, kind: str, reason: str
) -> None:
    spoil(kind, tmp_path / "spoiled.tar", members(archive))

    assert reason in refusal(tmp_path / "spoiled.tar", store, capsys)


def test_an_artifact_with_another_digest_is_refused(
    archive: Path, store: Path, capsys: Output
) -> None:
    assert f"expected {'0' * 64}" in refusal(archive, store, capsys, "--digest", "0" * 64)
