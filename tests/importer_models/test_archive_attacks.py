"""Archives that are not what `export` writes: refused with one line, the store as it was."""

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.importer_models.archives import FIRST, Members, members, refused, written


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
        (lambda files: files | {"../escaped": b"x"}, "'../escaped' leaves the artifact"),
        (lambda files: files | {"/tmp/escaped": b"x"}, "'/tmp/escaped' leaves the artifact"),
        (lambda files: files | {"a/../../escaped": b"x"}, "leaves the artifact"),
        (lambda files: files | {"extra.py": b"x"}, "('extra.py')"),
        (lambda files: files | {"model.yaml": b"x"}, "('model.yaml')"),
        (lambda files: files | {"slo.json": b"{}"}, "('slo.json')"),
        (lambda files: files | {"folder/": b""}, "'folder/' is no plain file"),
        (lambda files: {k: v for k, v in files.items() if k != "labels.json"}, "('labels.json')"),
        (lambda files: {k: v for k, v in files.items() if k != "manifest.json"}, "manifest.json"),
        (changed("labels.json", flipped), "labels.json: sha256 is "),
        (changed("engines/network.onnx", flipped), "engines/network.onnx: sha256 is "),
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
        ("compressed", "'labels.json' is compressed or encrypted"),
        ("twice", "(a name twice)"),
        ("cut", "no complete archive of `export`"),
        ("bit", "no complete archive of `export`"),
    ],
)
def test_a_container_that_export_does_not_write_is_refused(
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
