"""Command line that makes a verified artifact of a trained model, in BentoML's model store."""

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SET_UP = "is not installed; run `make setup`, and then .venv/bin/python model_import.py"
try:
    from pydantic import ValidationError

    from importer.command_line import CommandLine, read_command_line
    from importer.process import INTERRUPTED, SIGNALS, UNREAD, printable
except ModuleNotFoundError as error:
    sys.exit(f"model_import: {error.name} {SET_UP}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    command_line = read_command_line(sys.argv[1:] if arguments is None else arguments)
    # The output of libraries goes to a file, which is created with its first line.
    log = Path(tempfile.mkdtemp(prefix="model-import-"), "libraries.log")
    handler = logging.FileHandler(log, encoding="utf-8", delay=True)
    logger = logging.getLogger("importer")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        status, refusal = _run(command_line)
    finally:
        logger.removeHandler(handler)
        handler.close()
        if not (has_library_output := log.exists()):
            log.parent.rmdir()
    see_log = f"the output of the libraries is in {log}"
    if refusal:
        message = f"{refusal}; {see_log}" if has_library_output else refusal
        for line in f"model_import: {message}".split("\n"):
            print(printable(line), file=sys.stderr)
    elif has_library_output and not (command_line.quiet or command_line.json):
        print(f"  {see_log}", file=sys.stderr)
    return status


def _run(command_line: CommandLine) -> tuple[int, str]:
    """Run a command; return the exit status, and why it was refused."""
    try:
        # Imported here: they load numpy and BentoML.
        from importer.commands import RUN
        from importer.progress import Progress
        from importer.report import print_lines
        from preprocessing.errors import OperatorError

        progress = Progress(quiet=command_line.quiet or command_line.json)
        value, lines, status = RUN[command_line.command](command_line, progress)
        if command_line.json:
            print(json.dumps(value, indent=2, sort_keys=True))
        else:
            print_lines(lines)
    except KeyboardInterrupt:
        return INTERRUPTED, "interrupted; the store and the lock are as they were"
    except ModuleNotFoundError as error:
        return 1, f"{error.name} {SET_UP}"
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD, ""
    except OSError as error:  # such as a full disk or a read-only folder
        place = error.filename2 or error.filename  # the target of a rename
        return 1, f"{place}: {error.strerror}" if place else str(error)
    except OperatorError as error:
        # The message has the text of these causes; that of others goes to the log.
        in_message = OperatorError | OSError | ValidationError | None
        if not isinstance(error.__cause__, in_message):
            logging.getLogger("importer").info("%s", error, exc_info=error)
        return 1, str(error)
    return status, ""


if __name__ == "__main__":
    for number in SIGNALS:  # SIGTERM raises KeyboardInterrupt too, which removes the staging dir
        signal.signal(number, signal.default_int_handler)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # odd file names
    sys.exit(main())
