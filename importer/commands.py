"""What each command of model_import.py does, and what it tells people and programs."""

import asyncio
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.format import SIGNATURE_NAME, ArtifactError
from image_classifier.artifact.store import (
    ModelLock,
    add,
    entries,
    lock_of,
    open_in_store,
    read_lock,
    staging_dir,
    write_lock,
)
from image_classifier.inference.startup import load_executor
from importer.archive import pack, unpack
from importer.certification import verify_engines
from importer.command_line import CommandLine
from importer.errors import ImportRefused
from importer.notebook import CODE, HINTS
from importer.options import ImportOptions
from importer.prediction import classify_files, image_files
from importer.process import return_freed_memory, uninterrupted
from importer.progress import Progress
from importer.report import (
    AnswerPrinter,
    describe_artifact,
    describe_attempts,
    list_of_entries,
    summary,
)

if TYPE_CHECKING:  # it loads torch
    from importer.pipeline import Imported

DEFAULT_LOCK = Path(__file__).resolve().parents[1] / "model.lock"
Outcome = tuple[object, Sequence[str], int]
"""What a command found: for --json, as lines for people, and the exit status."""


def _import(given: CommandLine, progress: Progress) -> Outcome:
    return _imported(_run_import(given.options, given.options.lock or DEFAULT_LOCK, progress))


def _run_import(options: ImportOptions, lock: Path | None, progress: Progress) -> "Imported":
    return_freed_memory()
    with progress.step("load torch"):
        from importer.pipeline import import_model
    return import_model(options, lock, " ".join(sys.argv), progress)


def _imported(imported: "Imported") -> Outcome:
    value = _described(imported.lock, imported)
    return value | {"known": imported.known, "proof": imported.proof}, summary(imported), 0


def _described(lock: ModelLock, found: "Artifact | Imported") -> dict[str, object]:
    return {
        **lock.model_dump(),
        "manifest": found.manifest.model_dump(mode="json"),
        "evidence": found.evidence.model_dump(mode="json"),
        "record": found.record and found.record.model_dump(mode="json"),
    }


def _predict(given: CommandLine, progress: Progress) -> Outcome:
    artifact = _open(given.words[0], progress)
    files, others = image_files([Path(word) for word in given.words[1]])
    if others:
        progress.note(f"left out, as no image: {len(others)} file(s), such as {others[0]}")
    with progress.step("load the engine and check it"):
        budget_ms = artifact.record.budget_ms if artifact.record else 50.0
        executor = load_executor(
            artifact, engine=None, budget_ms=budget_ms, deterministic=False, every_sample=True
        )
    form = "json" if given.json else "csv" if given.options.csv else "text"
    is_score = artifact.manifest.outputs.activation == "none"
    printer = AnswerPrinter(form, "score" if is_score else "probability")

    async def run() -> None:
        answers = classify_files(artifact, executor, files, given.options.top_k)
        with progress.step(f"classify {len(files)} images") as count_one:
            async for answer in answers:
                printer.add(answer)
                count_one()

    asyncio.run(run())
    value = {"tag": lock_of(artifact).tag, "results": printer.results}
    return value, [], 1 if printer.errors else 0


def _notebook(_given: CommandLine, _progress: Progress) -> Outcome:
    lines = f"{CODE}\n{HINTS}".splitlines()
    return {"lines": lines}, lines, 0


def _verify(given: CommandLine, progress: Progress) -> Outcome:
    artifact = _open(given.words[0], progress)
    rows = verify_engines(artifact, progress)
    failed, tag = any(row.reason for row in rows), lock_of(artifact).tag
    speed = {"curve", "compared"}  # not measured by this command
    value = {"tag": tag, "engines": [row.model_dump(exclude=speed) for row in rows]}
    return value, [*describe_attempts(rows), f"{'not ' * failed}verified: {tag}"], int(failed)


def _show(given: CommandLine, progress: Progress) -> Outcome:
    artifact = _open(given.words[0], progress)
    lock = lock_of(artifact)
    return _described(lock, artifact), describe_artifact(lock.tag, artifact), 0


def _list(_given: CommandLine, _progress: Progress) -> Outcome:
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


def _use(given: CommandLine, progress: Progress) -> Outcome:
    artifact = _open(given.words[0], progress)
    path, lock = given.options.lock or DEFAULT_LOCK, lock_of(artifact)
    for row in verify_engines(artifact, progress):
        if row.verdict == "failed":
            raise ImportRefused(f"{lock.tag}: {row.engine}: {row.reason}; {path} is as it was")
        if row.reason:  # what cannot run here may run where the lock is sent
            progress.note(f"{row.engine}: {row.reason}")
    before = _locked_tag(path)
    write_lock(path, lock)
    value = {**lock.model_dump(), "before": before}
    return value, [f"{path}: {before or 'nothing'} → {lock.tag}"], 0


def _renew(given: CommandLine, progress: Progress) -> Outcome:
    artifact = _open(given.words[0], progress)
    old, old_reference = lock_of(artifact), artifact.reference()[0]
    with tempfile.TemporaryDirectory(prefix="model-import-") as folder:
        from importer.renewal import compared, renewed_options

        options = renewed_options(artifact, Path(folder), given.options)
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


def _pack(given: CommandLine, progress: Progress) -> Outcome:
    artifact = _open(given.words[0], progress)
    file, tag = Path(given.words[1]), lock_of(artifact).tag
    with progress.step(f"write {file}"):
        pack(artifact, file)
    value = {"tag": tag, "manifest_sha256": artifact.digest, "file": str(file)}
    return value, [f"packed: {tag}", f"manifest sha256: {artifact.digest}"], 0


def _unpack(given: CommandLine, progress: Progress) -> Outcome:
    with staging_dir() as root:
        with progress.step("unpack and verify every file"):
            lock = lock_of(unpack(Path(given.words[0]), root, given.options.digest))
        with uninterrupted():
            known = add(root, lock, newer=(SIGNATURE_NAME,))  # signed since, or with another key
    said = f"{'already in the store' if known else 'unpacked'}: {lock.tag}"
    value = {**lock.model_dump(), "known": known}
    return value, [said, f"manifest sha256: {lock.manifest_sha256}"], 0


def _locked_tag(path: Path) -> str | None:
    """Return the tag that a lock names; None where there is none that can be read."""
    try:
        return read_lock(path).tag
    except ArtifactError:
        return None


def _open(tag: str | None, progress: Progress) -> Artifact:
    """Open the artifact of a tag, or the one that model.lock names."""
    with progress.step("read all files and compare their digests"):
        if tag is not None:
            return open_in_store(tag)
        lock = read_lock(DEFAULT_LOCK)
        artifact = open_in_store(lock.tag)
    if lock != lock_of(artifact):
        raise ImportRefused(
            f"{DEFAULT_LOCK}: names manifest {lock.manifest_sha256} and evidence "
            f"{lock.evidence_sha256}, {lock.tag} has {artifact.digest} and "
            f"{artifact.evidence_digest}; `model_import.py use {lock.tag}` writes it again"
        )
    return artifact


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
"""Command → what carries it out."""
