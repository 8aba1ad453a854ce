"""The commands beside an import: verify, show, list, export and import of an artifact."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.evidence import read_evidence
from image_classifier.artifact.format import MANIFEST_NAME, SIGNATURE_NAME
from image_classifier.artifact.manifest import parse_manifest
from image_classifier.artifact.record import read_record
from image_classifier.artifact.store import (
    LOCK_NAME,
    ModelLock,
    add,
    check_lock_place,
    locate,
    lock_of,
    open_in_store,
    read_lock,
    staging_dir,
    tags,
    write_lock,
)
from importer.archive import read_archive, write_archive
from importer.errors import ImportRefused
from importer.interruption import uninterrupted
from importer.progress import TerminalProgress
from importer.report import ListRow, print_artifact, print_json, print_list, print_verification
from preprocessing.errors import OperatorError

Arguments = argparse.Namespace
TAG_HELP = "NAME:VERSION in the model store (default: the one model.lock names)"


def command_parser(default_lock: Path) -> argparse.ArgumentParser:
    """The command line of the commands; `default_lock` names the artifact where no tag is given."""
    parser = argparse.ArgumentParser(prog="model_import.py")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (run, words) in COMMANDS.items():
        command = commands.add_parser(name, help=words, description=words)
        command.set_defaults(run=run, default_lock=default_lock)
        command.add_argument("--json", action="store_true", help="result as JSON")
        command.add_argument("--quiet", action="store_true", help="no progress")
        if name in ("verify", "show"):
            command.add_argument("tag", nargs="?", metavar="TAG", help=TAG_HELP)
        if name == "export":
            command.add_argument("tag", metavar="TAG", help="NAME:VERSION in the model store")
        if name in ("export", "import"):
            command.add_argument("file", metavar="FILE", type=Path, help="the archive (.zip)")
        if name == "import":
            command.add_argument(
                "--digest", metavar="SHA256", help="digest its manifest must have, as `show` says"
            )
            command.add_argument(
                "--lock",
                nargs="?",
                type=Path,
                const=default_lock,
                metavar="PATH",
                help=f"also write the lock (default {LOCK_NAME}); without it none is written",
            )
    return parser


def _verify(given: Arguments, progress: TerminalProgress) -> int:
    with progress.step("read all files and compare their digests"):
        artifact = _opened(given)
    from importer.candidates import verify_engines

    rows = verify_engines(artifact, progress)
    tag = lock_of(artifact).tag
    if given.json:
        print_json({"tag": tag, "engines": [row.model_dump(exclude={"curve"}) for row in rows]})
    else:
        print_verification(tag, rows)
    return 0 if all(row.verdict == "passed" for row in rows) else 1


def _show(given: Arguments, _progress: TerminalProgress) -> int:
    artifact = _opened(given)
    tag = lock_of(artifact).tag
    if given.json:
        print_json(
            {
                "tag": tag,
                "manifest_sha256": artifact.digest,
                "evidence_sha256": artifact.evidence_digest,
                "manifest": artifact.manifest.model_dump(mode="json"),
                "evidence": artifact.evidence.model_dump(mode="json"),
                "record": artifact.record and artifact.record.model_dump(mode="json"),
            }
        )
    else:
        print_artifact(tag, artifact)
    return 0


def _list(given: Arguments, _progress: TerminalProgress) -> int:
    rows = [_row(tag) for tag in tags()]
    if given.json:
        print_json([asdict(row) for row in rows])
    else:
        print_list(rows)
    return 0


def _export(given: Arguments, progress: TerminalProgress) -> int:
    with progress.step("read all files and compare their digests"):
        artifact = _opened(given)
    with progress.step(f"write {given.file}"):
        write_archive(artifact, given.file)
    tag = lock_of(artifact).tag
    if given.json:
        print_json({"tag": tag, "manifest_sha256": artifact.digest, "file": str(given.file)})
    else:
        print(f"exported: {tag}\nmanifest sha256: {artifact.digest}")
    return 0


def _import(given: Arguments, progress: TerminalProgress) -> int:
    if given.lock is not None:
        check_lock_place(given.lock)
    with staging_dir() as root:
        with progress.step("unpack and verify every file"):
            artifact = read_archive(given.file, root, given.digest)
        with uninterrupted():
            lock = lock_of(artifact)
            known = add(root, lock)
            if known and (root / SIGNATURE_NAME).is_file():  # signed since, or with another key
                (root / SIGNATURE_NAME).replace(locate(lock.tag) / SIGNATURE_NAME)
            if given.lock is not None:
                write_lock(given.lock, lock)
    _print_imported(given, lock, known=known)
    return 0


def _print_imported(given: Arguments, lock: ModelLock, *, known: bool) -> None:
    if given.json:
        print_json({**lock.model_dump(), "known": known})
    else:
        print(f"{'already in the store' if known else 'imported'}: {lock.tag}")
        print(f"manifest sha256: {lock.manifest_sha256}")


def _opened(given: Arguments) -> Artifact:
    if given.tag is not None:
        return open_in_store(given.tag)
    lock = read_lock(given.default_lock)
    artifact = open_in_store(lock.tag)
    if lock != lock_of(artifact):
        raise ImportRefused(
            f"{given.default_lock}: names manifest {lock.manifest_sha256} and evidence "
            f"{lock.evidence_sha256}, {lock.tag} has {artifact.digest} and "
            f"{artifact.evidence_digest}; import the model again"
        )
    return artifact


def _row(tag: str) -> ListRow:
    # Another program's, a newer one's or a damaged model must not hide the others.
    try:
        root = locate(tag)
        path = root / MANIFEST_NAME
        manifest, record = parse_manifest(path.read_bytes(), str(path)), read_record(root)
        evidence, _ = read_evidence(root)
    except (OperatorError, OSError) as error:
        return ListRow(tag=tag, problem=str(error))
    return ListRow(
        tag=tag,
        classes=manifest.num_classes,
        engines=tuple(entry.name for entry in evidence.engines),
        imported_at=None if record is None else record.imported_at,
    )


Run = Callable[[Arguments, TerminalProgress], int]
COMMANDS: dict[str, tuple[Run, str]] = {
    "verify": (_verify, "run all certificates of an artifact again, on this machine"),
    "show": (_show, "an artifact as a readable page"),
    "list": (_list, "the artifacts of the model store"),
    "export": (_export, "write an artifact into one file, for another machine"),
    "import": (_import, "read such a file into the model store; runs nothing that is in it"),
}
