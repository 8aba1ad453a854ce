"""Result files: one session each, gzipped where large."""

import gzip
from pathlib import Path

from pydantic import ValidationError

from benchmarks.record import SCHEMA_VERSION, Session
from preprocessing.errors import OperatorError

GZIP_ABOVE_BYTES = 256 * 1024
RESULT_FILES = "20??-??-??-*.json*"
DAY = len("2026-01-01")


class RecordError(OperatorError):
    """A result file cannot be read."""


def write_session(session: Session, directory: Path) -> Path:
    """Write `<date>-<commit>-<name>.json`, gzipped where large, and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    plain = path = directory / f"{session.date[:10]}-{session.commit}-{session.name}.json"
    data = session.model_dump_json().encode()
    if len(data) > GZIP_ABOVE_BYTES:
        path = path.with_suffix(".json.gz")
        data = gzip.compress(data, mtime=0)
    # Written beside and renamed: a session cut short leaves the earlier file whole.
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(data)
    unfinished.replace(path)
    if path != plain:
        plain.unlink(missing_ok=True)  # of the same session, when it was small
    return path


def read_session(path: Path) -> Session:
    """Read a result file, gzipped or not.

    Raises:
        RecordError: It is no result file of this schema.
    """
    data = path.read_bytes()
    try:
        return Session.model_validate_json(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (ValidationError, gzip.BadGzipFile, EOFError) as error:
        raise RecordError(
            f"{path.name}: no result file of schema {SCHEMA_VERSION} ({type(error).__name__}); "
            "measure again"
        ) from error


def newest_result(folder: Path) -> Path:
    """The newest full session; without one, the newest quick one.

    Raises:
        RecordError: There is none.
    """
    found = newest_of(folder, "full") or newest_of(folder, "quick")
    if found is None:
        raise RecordError(f"{folder.name}/ has no result; run `make bench` or `make bench-quick`")
    return found[0]


def newest_of(folder: Path, name: str) -> tuple[Path, Session] | None:
    """The newest session of a name with its file; the date inside decides, to the second."""
    paths = [path for path in folder.glob(RESULT_FILES) if session_name(path) == name]
    # Those of the newest day are read; their names do not tell the hour.
    newest_day = max((path.name[:DAY]) for path in paths) if paths else ""
    sessions = [(path, read_session(path)) for path in paths if path.name[:DAY] == newest_day]
    return max(sessions, key=lambda pair: pair[1].date, default=None)


def newest_by_model(folder: Path, name: str) -> list[tuple[Path, Session]]:
    """The newest session `<name>-<model>` of each model, in the order of the models."""
    names = {session_name(path) for path in folder.glob(RESULT_FILES)}
    found = [newest_of(folder, each) for each in sorted(names) if each.startswith(f"{name}-")]
    return [each for each in found if each is not None]


def session_name(path: Path) -> str:
    """What follows date and commit in the name of a result file."""
    stem = path.name[DAY + 1 :].partition(".")[0]
    return stem.partition("-")[2].removeprefix("dirty-")
