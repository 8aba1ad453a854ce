"""Result files: one session each, gzipped where large."""

import gzip
from pathlib import Path

from pydantic import ValidationError

from benchmarks.record import SCHEMA_VERSION, Session
from errors import OperatorError

GZIP_ABOVE_BYTES = 256 * 1024


class RecordError(OperatorError):
    """A result file cannot be read."""


def write_session(session: Session, directory: Path) -> Path:
    """Write `<date>-<commit>-<name>.json`, gzipped where large, and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{session.date[:10]}-{session.commit}-{session.name}.json"
    data = session.model_dump_json().encode()
    if len(data) > GZIP_ABOVE_BYTES:
        path = path.with_suffix(".json.gz")
        data = gzip.compress(data, mtime=0)
    # Written beside and renamed: a session cut short leaves the earlier file whole.
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(data)
    unfinished.replace(path)
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
