"""An artifact carried as one file: the same bytes, and the same artifact elsewhere."""

import hashlib
import json
import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.signature import verify_signature
from importer.archive import write_archive
from model_import import main
from tests.importer_models.archives import FIRST, members, refused, written
from tests.signing import make_key, sign


def test_the_same_artifact_gives_the_same_archive(digits_folder: Path, tmp_path: Path) -> None:
    artifact = open_artifact(digits_folder)
    paths = [tmp_path / "one.zip", tmp_path / "two.zip"]
    for path in paths:
        write_archive(artifact, path)
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
        write_archive(open_artifact(digits_folder), path)

    assert path.read_text() == "years of work"


def test_an_archive_becomes_the_same_artifact_in_another_store(
    archive: Path, digits_folder: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = open_artifact(digits_folder)
    digest, evidence_digest = artifact.digest, artifact.evidence_digest

    assert main(["import", str(archive), "--digest", digest, "--json"]) == 0

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
    assert main(["import", str(archive), "--quiet"]) == 0
    assert "already in the store: digits:" in capsys.readouterr().out


@pytest.fixture
def signed(digits_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """An archive of the signed digits artifact, and the public key."""
    root = tmp_path / "signed" / digits_folder.name
    shutil.copytree(digits_folder, root)
    artifact = open_artifact(root)
    public = make_key(tmp_path / "key.pem")
    sign(root, tmp_path / "key.pem")
    write_archive(artifact, tmp_path / "signed.zip")
    return tmp_path / "signed.zip", public


@pytest.mark.parametrize("there_already", [False, True])
def test_a_signature_travels_and_is_verified_where_it_arrives(
    signed: tuple[Path, Path],
    archive: Path,
    empty_store: Path,
    digits_folder: Path,
    there_already: bool,
) -> None:
    path, public = signed
    if there_already:
        main(["import", str(archive), "--quiet"])

    assert main(["import", str(path), "--quiet"]) == 0

    found = open_artifact(empty_store / "models" / "digits" / digits_folder.name)
    verify_signature(found, public)


def test_the_lock_is_written_only_when_asked_for(
    archive: Path, empty_store: Path, tmp_path: Path, digits_folder: Path
) -> None:
    lock = tmp_path / "model.lock"
    main(["import", str(archive), "--quiet"])
    before = lock.exists()

    main(["import", str(archive), "--quiet", "--lock", str(lock)])

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

    assert main(["import", str(written(tmp_path / "own.zip", contents)), "--quiet"]) == 0

    assert "imported: digits:" in capsys.readouterr().out
    assert not marker.exists()


def test_another_digest_than_the_expected_one_is_refused(
    archive: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(archive, empty_store, capsys, "--digest", "0" * 64)

    assert "expected " + "0" * 64 in text
