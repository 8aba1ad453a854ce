"""Command line: a trained model becomes a verified artifact in BentoML's model store."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from importer.options import (
    Parser,
    add_import_options,
    nearest,
    parse_strictly,
    read_import_options,
)
from importer.process import INTERRUPTED, SIGNALS, interrupt, return_freed_memory, uninterrupted
from preprocessing.errors import OperatorError

# What loads torch, BentoML or an engine is imported where it is used: --help and wrong arguments
# are answered at once.
if TYPE_CHECKING:
    from image_classifier.artifact.artifact import Artifact
    from importer.progress import Progress
    from importer.report import ListRow

ROOT = Path(__file__).resolve().parent
DEFAULT_LOCK = ROOT / "model.lock"
COMMANDS = {
    "verify": ("[TAG]", "run all certificates again, on this machine"),
    "show": ("[TAG]", "show an artifact as a readable page"),
    "list": ("", "list the artifacts of the model store"),
    "pack": ("TAG FILE", "write an artifact into one file, for another machine"),
    "unpack": ("FILE", "read such a file into the model store; runs nothing that is in it"),
}
"""Command → its arguments, and what it does."""
_COMMAND_LINES = "\n".join(
    f"  {f'{name} {arguments}':<16}  {purpose}" for name, (arguments, purpose) in COMMANDS.items()
)
EXAMPLES = f"""\
examples:
  # a network of torchvision with published weights: labels and preprocessing come with them
  python model_import.py --name resnet50 --network torchvision:resnet50 \\
      --weights IMAGENET1K_V2 --golden photos/

  # a network, weights and preprocessing of your own
  python model_import.py --name digits --network network.py:build --weights weights.safetensors \\
      --preprocessing preprocessing.py:DigitsPreprocessing --labels labels.txt --golden samples/

commands, each with a --help of its own:
{_COMMAND_LINES}

exit status: 0 done, 1 refused (one line says why), 2 wrong arguments, 130 interrupted
"""


def import_parser() -> Parser:
    """Return the command line of an import."""
    parser = Parser(
        prog="model_import.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_import_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--lock",
        type=Path,
        metavar="PATH",
        help="the lock to write (default: model.lock of this program)",
    )
    _add_output_options(output)
    return parser


def command_parser() -> Parser:
    """Return the command line of the commands beside an import."""
    parser = Parser(prog="model_import.py")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose, allow_abbrev=False)
        _add_output_options(command)
        if name in ("verify", "show"):
            command.add_argument(
                "tag",
                nargs="?",
                metavar="TAG",
                help="NAME:VERSION in the model store (default: the one model.lock names)",
            )
        if name == "pack":
            command.add_argument("tag", metavar="TAG", help="NAME:VERSION in the model store")
        if name in ("pack", "unpack"):
            command.add_argument("file", metavar="FILE", type=Path, help="the archive (.zip)")
        if name == "unpack":
            command.add_argument(
                "--digest", metavar="SHA256", help="digest its manifest must have, as `show` says"
            )
            command.add_argument(
                "--lock",
                nargs="?",
                type=Path,
                const=DEFAULT_LOCK,
                metavar="PATH",
                help="also write the lock (default model.lock); without it none is written",
            )
    return parser


def _add_output_options(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument("--json", action="store_true", help="result as JSON on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with _library_log() as log_file:
        try:
            if arguments and not arguments[0].startswith("-"):
                return _run_command(arguments)
            return _import(arguments, log_file)
        except OperatorError as error:
            cause = error.__cause__
            if cause is not None and not isinstance(cause, OperatorError | OSError):
                logging.getLogger("importer").info("%s", error, exc_info=error)
            print(f"model_import: {error}{_see_log(log_file)}", file=sys.stderr)
            return 1
        except OSError as error:  # a full disk, a read-only folder: of the machine, no bug
            places = [str(name) for name in (error.filename, error.filename2) if name is not None]
            parts = [*([" → ".join(places)] if places else []), error.strerror or str(error)]
            print(f"model_import: {': '.join(parts)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(
                "model_import: interrupted; the store and the lock are as they were",
                file=sys.stderr,
            )
            return INTERRUPTED


@contextlib.contextmanager
def _library_log() -> Iterator[Path]:
    """Collect what libraries say of a failure in a file of the temporary directory.

    The file is removed where nothing was written.
    """
    descriptor, name = tempfile.mkstemp(prefix="model-import-", suffix=".log")
    os.close(descriptor)
    handler = logging.FileHandler(name, encoding="utf-8", delay=True)
    logger = logging.getLogger("importer")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield Path(name)
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.propagate = True
        if Path(name).stat().st_size == 0:
            Path(name).unlink()


def _see_log(log_file: Path) -> str:
    """Return where the text of the libraries is; nothing where none was written."""
    return f"; what the libraries said is in {log_file}" if log_file.stat().st_size else ""


def _import(arguments: Sequence[str], log_file: Path) -> int:
    parser = import_parser()
    given = parse_strictly(parser, arguments)
    options = read_import_options(vars(given), parser)
    progress = _progress(given)
    return_freed_memory()
    with progress.step("load torch"):
        from importer.pipeline import current_provenance, import_model
    lock_path = given.lock or DEFAULT_LOCK
    imported = import_model(options, lock_path, current_provenance(ROOT), progress)
    from importer.report import print_json, print_summary

    if given.json:
        print_json(
            {
                **imported.lock.model_dump(),
                "known": imported.known,
                "proof": imported.proof,
                "manifest": imported.manifest.model_dump(mode="json"),
                "evidence": imported.evidence.model_dump(mode="json"),
                "record": imported.record.model_dump(mode="json"),
            }
        )
    else:
        print_summary(
            imported.lock.tag,
            imported.known,
            imported.record,
            imported.manifest,
            imported.proof,
        )
    if log_text := _see_log(log_file):
        progress.note(log_text.removeprefix("; "))
    return 0


def _run_command(arguments: Sequence[str]) -> int:
    parser = command_parser()
    if arguments[0] not in COMMANDS:
        parser.error(
            f"unknown command {arguments[0]!r}{nearest(arguments[0], COMMANDS)}; "
            f"there are {', '.join(COMMANDS)}"
        )
    given = parse_strictly(parser, arguments)
    match given.command:
        case "verify":
            return _verify(given)
        case "show":
            return _show(given)
        case "list":
            return _list(given)
        case "pack":
            return _pack(given)
        case _:
            return _unpack(given)


def _verify(given: argparse.Namespace) -> int:
    progress = _progress(given)
    artifact = _open(given, progress)
    from image_classifier.artifact.store import lock_of
    from importer.certification import verify_engines
    from importer.report import print_json, print_verification

    rows = verify_engines(artifact, progress)
    tag = lock_of(artifact).tag
    if given.json:
        print_json({"tag": tag, "engines": [row.model_dump(exclude={"curve"}) for row in rows]})
    else:
        print_verification(tag, rows)
    return 0 if all(row.verdict == "passed" for row in rows) else 1


def _show(given: argparse.Namespace) -> int:
    from image_classifier.artifact.store import lock_of
    from importer.report import print_artifact, print_json

    artifact = _open(given, _progress(given))
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


def _list(given: argparse.Namespace) -> int:
    from image_classifier.artifact.store import tags
    from importer.report import print_json, print_list

    rows = [_list_row(tag) for tag in tags()]
    if given.json:
        print_json([asdict(row) for row in rows])
    else:
        print_list(rows)
    return 0


def _list_row(tag: str) -> "ListRow":
    from image_classifier.artifact.evidence import read_evidence
    from image_classifier.artifact.format import MANIFEST_NAME
    from image_classifier.artifact.manifest import parse_manifest
    from image_classifier.artifact.record import read_record
    from image_classifier.artifact.store import locate
    from importer.report import ListRow

    # A damaged artifact, or one of another release, must not hide the others.
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
        engines=tuple(engine.name for engine in evidence.engines),
        imported_at=None if record is None else record.imported_at,
    )


def _pack(given: argparse.Namespace) -> int:
    progress = _progress(given)
    artifact = _open(given, progress)
    from image_classifier.artifact.store import lock_of
    from importer.archive import pack
    from importer.report import print_json

    with progress.step(f"write {given.file}"):
        pack(artifact, given.file)
    tag = lock_of(artifact).tag
    if given.json:
        print_json({"tag": tag, "manifest_sha256": artifact.digest, "file": str(given.file)})
    else:
        print(f"packed: {tag}\nmanifest sha256: {artifact.digest}")
    return 0


def _unpack(given: argparse.Namespace) -> int:
    from image_classifier.artifact.format import SIGNATURE_NAME
    from image_classifier.artifact.store import (
        add,
        check_lock_place,
        locate,
        lock_of,
        staging_dir,
        write_lock,
    )
    from importer.archive import unpack
    from importer.report import print_json

    if given.lock is not None:
        check_lock_place(given.lock)
    with staging_dir() as root:
        with _progress(given).step("unpack and verify every file"):
            lock = lock_of(unpack(given.file, root, given.digest))
        with uninterrupted():
            known = add(root, lock)
            if known and (root / SIGNATURE_NAME).is_file():  # signed since, or with another key
                (root / SIGNATURE_NAME).replace(locate(lock.tag) / SIGNATURE_NAME)
            if given.lock is not None:
                write_lock(given.lock, lock)
    if given.json:
        print_json({**lock.model_dump(), "known": known})
    else:
        print(f"{'already in the store' if known else 'unpacked'}: {lock.tag}")
        print(f"manifest sha256: {lock.manifest_sha256}")
    return 0


def _progress(given: argparse.Namespace) -> "Progress":
    from importer.progress import TerminalProgress

    return TerminalProgress(quiet=given.quiet or given.json)


def _open(given: argparse.Namespace, progress: "Progress") -> "Artifact":
    """Open the artifact of the tag that was given, else the one that model.lock names."""
    from image_classifier.artifact.store import lock_of, open_in_store, read_lock
    from importer.errors import ImportRefused

    with progress.step("read all files and compare their digests"):
        if given.tag is not None:
            return open_in_store(given.tag)
        lock = read_lock(DEFAULT_LOCK)
        artifact = open_in_store(lock.tag)
    if lock != lock_of(artifact):
        raise ImportRefused(
            f"{DEFAULT_LOCK}: names manifest {lock.manifest_sha256} and evidence "
            f"{lock.evidence_sha256}, {lock.tag} has {artifact.digest} and "
            f"{artifact.evidence_digest}; import the model again"
        )
    return artifact


if __name__ == "__main__":
    for number in SIGNALS:
        signal.signal(number, interrupt)
    sys.exit(main())
