"""Command line: a trained model becomes a verified artifact in BentoML's model store."""

import argparse
import contextlib
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from importer.options import (
    RENEWED,
    CommandOptions,
    ImportOptions,
    Parser,
    nearest,
    no_such,
    option_values,
)
from importer.process import INTERRUPTED, SIGNALS, interrupt, return_freed_memory, uninterrupted

# What loads numpy, torch, BentoML or an engine is imported where it is used: --help and wrong
# arguments are answered at once.
if TYPE_CHECKING:
    from image_classifier.artifact.artifact import Artifact
    from importer.pipeline import Imported
    from importer.progress import TerminalProgress

ROOT = Path(__file__).resolve().parent
DEFAULT_LOCK = ROOT / "model.lock"
COMMANDS = {
    "predict": ("[TAG] PATH…", "classify image files and folders of them, without a server"),
    "verify": ("[TAG]", "run all certificates again, on this machine"),
    "show": ("[TAG]", "show an artifact as a readable page"),
    "list": ("", "list the artifacts of the model store, newest first"),
    "use": ("TAG", "verify an artifact, and write it into model.lock"),
    "renew": ("TAG", "prove an artifact again with this release; the old one stays"),
    "pack": ("TAG FILE", "write an artifact into one file, for another machine"),
    "unpack": ("FILE", "read such a file into the model store; runs nothing that is in it"),
}
"""Command → its arguments, and what it does."""
OPTIONS = {"": {"lock"}, "predict": {"top_k"}, "use": {"lock"}, "unpack": {"digest"}}
"""Command, empty for an import → the `CommandOptions` that it takes."""
TAG = re.compile(r"[a-z0-9][a-z0-9_.-]*(:[a-z0-9_.-]+)?")
_COMMAND_LINES = "\n".join(
    f"  {f'{name} {arguments}':<19}  {purpose}" for name, (arguments, purpose) in COMMANDS.items()
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


@dataclass(frozen=True, kw_only=True)
class Given:
    """A command line without mistakes.

    Attributes:
        command: Empty for an import.
        tag: None where none was given.
        words: The other arguments.
        changes: Options of an import that were given, as text.
    """

    command: str
    tag: str | None
    words: Sequence[str]
    options: CommandOptions
    changes: dict[str, object]
    json: bool
    csv: bool
    quiet: bool


Outcome = tuple[object, Callable[[], None], int]
"""What a command found: for --json, a function that prints it for people, the exit status."""


def command_parser(command: str = "") -> Parser:
    """Return the command line of a command, or that of an import."""
    arguments, purpose = COMMANDS.get(command, ("", __doc__))
    about = "TAG is NAME:VERSION in the model store" if "TAG" in arguments else ""
    about += " (default: the one of model.lock)" * arguments.startswith("[")
    parser = Parser(
        prog="model_import.py",
        usage=f"model_import.py {command} {arguments} [options]" if command else None,
        description=purpose,
        epilog=about if command else EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if command in ("", "renew"):
        parser.add_options(ImportOptions, RENEWED if command else None)
    parser.add_options(CommandOptions, OPTIONS.get(command, ()))
    parser.add_flags(*["csv"] * (command == "predict"), "json", "quiet")
    return parser


def read_command_line(arguments: Sequence[str]) -> Given:
    """Read a command line; exit with status 2 and a line for each mistake."""
    command = ""
    if arguments and not arguments[0].startswith("-"):
        command, *arguments = arguments
    command = "" if command == "import" else command  # an import may also be called by its name
    parser = command_parser(command if command in COMMANDS else "")
    if command and command not in COMMANDS:
        close = nearest(command, [*COMMANDS, *parser._option_string_actions])
        parser.error(f"unknown command {command!r}{close}; there are {', '.join(COMMANDS)}")
    given, words, mistakes = parser.read(arguments)
    values, wrong = option_values(given, CommandOptions)
    changes, wrong_changes = option_values(given, ImportOptions, partial=command != "")
    tried = " ".join(mistakes)  # an option with a typo, or without its value, is not missing
    wrong_changes = [
        line
        for line in wrong_changes
        if not (": is required: " in line and line.partition(":")[0] in tried)
    ]
    mistakes += [*wrong, *wrong_changes]
    if given.json and "csv" in given and given.csv:
        mistakes.append("--csv and --json: give one of them")

    takes = COMMANDS[command][0].split() if command else []
    tag = None
    is_path = command == "predict" and words and (":" not in words[0] or Path(words[0]).exists())
    if any("TAG" in name for name in takes) and words and not is_path:
        tag, *words = words
        if not TAG.fullmatch(tag):
            mistakes.append(f"TAG: expected NAME:VERSION as `list` shows, found {tag!r}")
    takes = [name for name in takes if name != "[TAG]" and (tag is None or name != "TAG")]
    if not command and words:
        first = "; a command comes first" if words[0] in COMMANDS else ""
        mistakes.append(f"unexpected argument {words[0]!r}{first}")
    elif len(words) < len(takes):
        mistakes.append(f"{command}: {' and '.join(takes[len(words) :])} missing; see --help")
    elif len(words) > len(takes) and "PATH…" not in takes:
        mistakes.append(f"{command}: unexpected argument {words[len(takes)]!r}; see --help")
    if command in ("predict", "unpack"):
        mistakes += [no_such(Path(word), "file") for word in words if not Path(word).exists()]
    if mistakes:
        parser.refuse(mistakes)
    return Given(
        command=command,
        tag=tag,
        words=words,
        options=CommandOptions.model_validate(values),
        changes=changes,
        json=given.json,
        csv="csv" in given and given.csv,
        quiet=given.quiet,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given = read_command_line(sys.argv[1:] if arguments is None else arguments)
    from importer.progress import TerminalProgress
    from importer.report import print_json
    from preprocessing.errors import OperatorError

    progress = TerminalProgress(quiet=given.quiet or given.json)
    with _library_log() as log_file:
        try:
            value, print_it, status = RUN[given.command](given, progress)
            if given.json:
                print_json(value)
            else:
                print_it()
            if log_text := _see_log(log_file):
                progress.note(log_text.removeprefix("; "))
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
    return status


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


def _import(given: Given, progress: "TerminalProgress") -> Outcome:
    imported = _run_import(
        ImportOptions.model_validate(given.changes), given.options.lock or DEFAULT_LOCK, progress
    )
    return _imported(imported)


def _run_import(
    options: ImportOptions, lock: Path | None, progress: "TerminalProgress"
) -> "Imported":
    return_freed_memory()
    with progress.step("load torch"):
        from importer.pipeline import import_model
    return import_model(options, lock, " ".join(sys.argv), progress)


def _imported(imported: "Imported") -> Outcome:
    from importer.report import print_summary

    value = {
        **imported.lock.model_dump(),
        "known": imported.known,
        "proof": imported.proof,
        "manifest": imported.manifest.model_dump(mode="json"),
        "evidence": imported.evidence.model_dump(mode="json"),
        "record": imported.record.model_dump(mode="json"),
    }
    return value, lambda: print_summary(imported), 0


def _predict(given: Given, progress: "TerminalProgress") -> Outcome:
    import asyncio

    artifact = _open(given, progress)
    from image_classifier.artifact.store import lock_of
    from image_classifier.inference.startup import load_executor
    from importer.prediction import classify_files, image_files
    from importer.report import AnswerPrinter, print_nothing

    files, others = image_files([Path(word) for word in given.words])
    if others:
        progress.note(f"left out, as no image: {len(others)} file(s), such as {others[0]}")
    with progress.step("load the engine and check it"):
        budget_ms = artifact.record.budget_ms if artifact.record else 50.0
        executor = load_executor(artifact, engine=None, budget_ms=budget_ms, deterministic=False)
    form = "json" if given.json else "csv" if given.csv else "text"
    is_score = artifact.manifest.outputs.activation == "none"
    printer = AnswerPrinter(form, "score" if is_score else "probability")

    async def run() -> None:
        answers = classify_files(artifact, executor, files, given.options.top_k)
        with progress.count(f"classify {len(files)} images", len(files)) as advance:
            async for answer in answers:
                printer.add(answer)
                advance()

    asyncio.run(run())
    value = {"tag": lock_of(artifact).tag, "results": printer.results}
    return value, print_nothing, 1 if printer.errors else 0


def _verify(given: Given, progress: "TerminalProgress") -> Outcome:
    artifact = _open(given, progress)
    from image_classifier.artifact.store import lock_of
    from importer.certification import verify_engines
    from importer.report import print_verification

    rows = verify_engines(artifact, progress)
    tag = lock_of(artifact).tag
    speed = {"curve", "compared", "load_average"}  # not measured by this command
    value = {"tag": tag, "engines": [row.model_dump(exclude=speed) for row in rows]}
    status = 0 if all(row.verdict == "passed" for row in rows) else 1
    return value, lambda: print_verification(tag, rows), status


def _show(given: Given, progress: "TerminalProgress") -> Outcome:
    artifact = _open(given, progress)
    from image_classifier.artifact.store import lock_of
    from importer.report import print_artifact

    tag = lock_of(artifact).tag
    value = {
        "tag": tag,
        "manifest_sha256": artifact.digest,
        "evidence_sha256": artifact.evidence_digest,
        "manifest": artifact.manifest.model_dump(mode="json"),
        "evidence": artifact.evidence.model_dump(mode="json"),
        "record": artifact.record and artifact.record.model_dump(mode="json"),
    }
    return value, lambda: print_artifact(tag, artifact), 0


def _list(_given: Given, _progress: "TerminalProgress") -> Outcome:
    from image_classifier.artifact.store import entries
    from importer.report import print_list

    found, locked = entries(), _locked_tag(DEFAULT_LOCK)
    value = [
        {
            **asdict(entry),
            "imported_at": entry.imported_at and entry.imported_at.isoformat(),
            "locked": entry.tag == locked,
        }
        for entry in found
    ]
    return value, lambda: print_list(found, locked), 0


def _use(given: Given, progress: "TerminalProgress") -> Outcome:
    artifact = _open(given, progress)
    from image_classifier.artifact.store import lock_of, write_lock
    from importer.certification import verify_engines
    from importer.errors import ImportRefused

    path, lock = given.options.lock or DEFAULT_LOCK, lock_of(artifact)
    rows = verify_engines(artifact, progress)
    for row in rows:
        if row.verdict == "failed":
            raise ImportRefused(f"{lock.tag}: {row.engine}: {row.reason}; {path} is as it was")
        if row.reason:  # what cannot run here may run where the lock is sent
            progress.note(f"{row.engine}: {row.reason}")
    before = _locked_tag(path)
    write_lock(path, lock)
    value = {**lock.model_dump(), "before": before}
    return value, lambda: print(f"{path}: {before or 'nothing'} → {lock.tag}"), 0


def _renew(given: Given, progress: "TerminalProgress") -> Outcome:
    artifact = _open(given, progress)
    from image_classifier.artifact.store import lock_of, open_in_store, write_lock
    from importer.renewal import compared, renewed_options

    old, old_reference = lock_of(artifact), artifact.reference()[0]
    with tempfile.TemporaryDirectory(prefix="model-import-") as folder:
        options = renewed_options(artifact, Path(folder), given.changes)
        imported = _run_import(options, None, progress)
    new = imported.lock
    if new.tag != old.tag:
        note = f"{old.tag} stays; `model_import.py use {new.tag}` serves this one"
    else:
        note = "the identity is the same, and proven again"
        if _locked_tag(DEFAULT_LOCK) == new.tag:
            write_lock(DEFAULT_LOCK, new)  # it pins the evidence too
    proof = (*imported.proof, compared(old_reference, open_in_store(new.tag)), note)
    return _imported(replace(imported, proof=proof))


def _pack(given: Given, progress: "TerminalProgress") -> Outcome:
    artifact = _open(given, progress)
    from image_classifier.artifact.store import lock_of
    from importer.archive import pack

    file = Path(given.words[0])
    with progress.step(f"write {file}"):
        pack(artifact, file)
    tag, digest = lock_of(artifact).tag, artifact.digest
    value = {"tag": tag, "manifest_sha256": digest, "file": str(file)}
    return value, lambda: print(f"packed: {tag}\nmanifest sha256: {digest}"), 0


def _unpack(given: Given, progress: "TerminalProgress") -> Outcome:
    from image_classifier.artifact.format import SIGNATURE_NAME
    from image_classifier.artifact.store import add, lock_of, staging_dir
    from importer.archive import unpack

    with staging_dir() as root:
        with progress.step("unpack and verify every file"):
            lock = lock_of(unpack(Path(given.words[0]), root, given.options.digest))
        with uninterrupted():
            known = add(root, lock, newer=(SIGNATURE_NAME,))  # signed since, or with another key
    said = f"{'already in the store' if known else 'unpacked'}: {lock.tag}"
    value = {**lock.model_dump(), "known": known}
    return value, lambda: print(f"{said}\nmanifest sha256: {lock.manifest_sha256}"), 0


RUN = {
    "": _import,
    "predict": _predict,
    "verify": _verify,
    "show": _show,
    "list": _list,
    "use": _use,
    "renew": _renew,
    "pack": _pack,
    "unpack": _unpack,
}


def _locked_tag(path: Path) -> str | None:
    """Return the tag that a lock names; None where there is none that can be read."""
    from image_classifier.artifact.format import ArtifactError
    from image_classifier.artifact.store import read_lock

    try:
        return read_lock(path).tag
    except ArtifactError:
        return None


def _open(given: Given, progress: "TerminalProgress") -> "Artifact":
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
            f"{artifact.evidence_digest}; `model_import.py use {lock.tag}` writes it again"
        )
    return artifact


if __name__ == "__main__":
    for number in SIGNALS:
        signal.signal(number, interrupt)
    sys.exit(main())
