"""The commands of model_import.py."""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.format import SIGNATURE_NAME, ArtifactError
from image_classifier.artifact.record import EngineAttempt
from image_classifier.artifact.store import (
    ModelLock,
    add,
    entries,
    locate,
    lock_of,
    model_names,
    open_in_store,
    read_lock,
    staging_dir,
    write_lock,
)
from image_classifier.inference.startup import load_executor
from importer.archive import pack, unpack
from importer.command_line import CommandLine
from importer.errors import ImportRefused
from importer.notebook import CODE, HINTS
from importer.options import ImportOptions
from importer.prediction import classify_files, image_files
from importer.process import return_freed_memory, uninterrupted
from importer.progress import Progress
from importer.report import (
    describe_artifact,
    list_of_entries,
    print_answers,
    summary,
)

if TYPE_CHECKING:  # loads torch
    from importer.pipeline import Imported

DEFAULT_LOCK = Path(__file__).resolve().parents[1] / "model.lock"
Outcome = tuple[object, Sequence[str], int]
"""The result of a command: value for --json, lines to print, exit status."""


def _import(command_line: CommandLine, progress: Progress) -> Outcome:
    options = command_line.options
    return _imported(_run_import(options, options.lock or DEFAULT_LOCK, progress))


def _run_import(
    options: ImportOptions,
    lock: Path | None,
    progress: Progress,
    renewed: Artifact | None = None,
) -> "Imported":
    return_freed_memory()
    with progress.step("load torch"):
        from importer.pipeline import import_model
    return import_model(options, lock, " ".join(sys.argv), progress, renewed)


def _imported(imported: "Imported", *notes: str) -> Outcome:
    value = _described(imported.lock, imported)
    proof = (*imported.record.proof, *notes)
    return value | {"known": imported.known, "proof": proof}, summary(imported, proof), 0


def _described(lock: ModelLock, found: "Artifact | Imported") -> dict[str, object]:
    return {
        **lock.model_dump(),
        "manifest": found.manifest.model_dump(mode="json"),
        "evidence": found.evidence.model_dump(mode="json"),
        "record": found.record.model_dump(mode="json"),
    }


def _predict(command_line: CommandLine, progress: Progress) -> Outcome:
    options = command_line.options
    tag, paths = command_line.tag, command_line.paths
    # A folder of images or of the training may have the name of the model.
    if tag is None and len(paths) > 1 and str(paths[0]) in model_names():
        tag, paths = str(paths[0]), paths[1:]
    artifact = _open(tag, progress)
    progress.note(f"the model is {lock_of(artifact).tag}")
    files, others = image_files(paths)
    if others:
        progress.note(f"{len(others)} file(s) skipped that are not images, such as {others[0]}")
    with progress.step("load the engine and check it"):
        executor = load_executor(
            artifact,
            engine=None,
            budget_ms=artifact.record.budget_ms,
            deterministic=False,
            every_sample=True,
        )
    form = "json" if command_line.json else "csv" if options.csv else "text"
    is_score = artifact.manifest.outputs.activation == "none"
    with progress.step(f"classify {len(files)} file(s)"):
        answers = classify_files(artifact, executor, files, options.top_k)
        results, errors = print_answers(answers, form, "score" if is_score else "probability")
    return {"tag": lock_of(artifact).tag, "results": results}, [], int(errors > 0)


def _notebook(_command_line: CommandLine, _progress: Progress) -> Outcome:
    lines = f"{CODE}\n{HINTS}".splitlines()
    return {"lines": lines}, lines, 0


def _verify(command_line: CommandLine, progress: Progress) -> Outcome:
    artifact = _open(command_line.tag, progress)
    rows, tag = _verified(artifact, progress), lock_of(artifact).tag
    failed = any(row.reason for row in rows)
    value = {
        "tag": tag,
        "engines": [row.model_dump(include={"engine", "verdict", "reason"}) for row in rows],
    }
    lines = [f"{row.engine}: {row.verdict}{': ' * bool(row.reason)}{row.reason}" for row in rows]
    return value, [*lines, f"{'not ' * failed}verified: {tag}"], int(failed)


def _verified(artifact: Artifact, progress: Progress) -> list[EngineAttempt]:
    with progress.step("load torch"):
        from importer.certification import verify_engines
    return verify_engines(artifact, progress)


def _show(command_line: CommandLine, progress: Progress) -> Outcome:
    artifact = _open(command_line.tag, progress)
    lock = lock_of(artifact)
    return _described(lock, artifact), describe_artifact(lock.tag, artifact), 0


def _list(_command_line: CommandLine, _progress: Progress) -> Outcome:
    found, locked = entries(), _locked_tag(DEFAULT_LOCK)
    value = [
        {
            **asdict(entry),
            "imported_at": entry.imported_at and entry.imported_at.isoformat(),
            "locked": entry.tag == locked,
        }
        for entry in found
    ]
    return value, list_of_entries(found, locked), 0


def _use(command_line: CommandLine, progress: Progress) -> Outcome:
    artifact = _open(command_line.tag, progress)
    path, lock = command_line.options.lock or DEFAULT_LOCK, lock_of(artifact)
    for row in _verified(artifact, progress):
        if row.verdict == "failed":
            raise ImportRefused(f"{lock.tag}: {row.reason}; {path} is unchanged")
        if row.reason:  # it may run where the lock is used
            progress.note(row.reason)
    before = _locked_tag(path)
    write_lock(path, lock)
    value = {**lock.model_dump(), "before": before}
    return value, [f"{path}: {before or 'nothing'} → {lock.tag}"], 0


def _renew(command_line: CommandLine, progress: Progress) -> Outcome:
    artifact = _open(command_line.tag, progress)
    old, old_reference = lock_of(artifact), artifact.reference()[0]
    with tempfile.TemporaryDirectory(prefix="model-import-") as folder:
        from importer.renewal import compare_references, renewed_options

        options = renewed_options(artifact, Path(folder), command_line.options)
        imported = _run_import(options, None, progress, artifact)
        new = imported.lock
        if _locked_tag(DEFAULT_LOCK) == new.tag:
            write_lock(DEFAULT_LOCK, new)  # it pins the evidence, which may have been replaced
    note = "the identity is the same, and proven again"
    if new.tag != old.tag:
        note = f"{old.tag} stays; `model_import.py use {new.tag}` serves this one"
    return _imported(imported, compare_references(old_reference, open_in_store(new.tag)), note)


def _pack(command_line: CommandLine, progress: Progress) -> Outcome:
    artifact = _open(command_line.tag, progress)
    file, tag = command_line.file, lock_of(artifact).tag
    with progress.step(f"write {file}"):
        pack(artifact, file)
    value = {"tag": tag, "manifest_sha256": artifact.digest, "file": str(file)}
    return value, [f"packed: {tag}", f"manifest sha256: {artifact.digest}"], 0


def _unpack(command_line: CommandLine, progress: Progress) -> Outcome:
    with staging_dir() as root:
        with progress.step("unpack and verify every file"):
            lock = lock_of(unpack(command_line.file, root, command_line.options.digest))
        with uninterrupted():
            known = add(root, lock, newer=(SIGNATURE_NAME,))  # signed since, or with another key
    outcome = f"{'already in the store' if known else 'unpacked'}: {lock.tag}"
    value = {**lock.model_dump(), "known": known}
    return value, [outcome, f"manifest sha256: {lock.manifest_sha256}"], 0


def _locked_tag(path: Path) -> str | None:
    """Return the tag that a lock names; None if it is missing or unreadable."""
    try:
        return read_lock(path).tag
    except ArtifactError:
        return None


def _open(tag: str | None, progress: Progress) -> Artifact:
    """Open the artifact of a tag, or that of model.lock."""
    with progress.step("read all files and compare their digests"):
        if tag is not None:
            return open_in_store(tag)
        lock = read_lock(DEFAULT_LOCK)
        return open_artifact(locate(lock.tag), lock.manifest_sha256, lock.evidence_sha256)


RUN: dict[str, Callable[[CommandLine, Progress], Outcome]] = {
    "": _import,
    "predict": _predict,
    "notebook": _notebook,
    "verify": _verify,
    "show": _show,
    "list": _list,
    "use": _use,
    "renew": _renew,
    "pack": _pack,
    "unpack": _unpack,
}
"""Command → its function."""
