"""The command line of model_import.py.

Imports neither numpy nor torch: mistakes in the arguments are reported at once.
"""

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from importer.options import (
    EngineOptions,
    ImportOptions,
    LockOptions,
    Options,
    PredictOptions,
    UnpackOptions,
    description_of,
    mistakes_of,
    nearest,
    no_such,
    option_of,
)

COMMANDS: dict[str, tuple[str, str, type[Options]]] = {
    "": ("", "make a verified artifact of a trained model", ImportOptions),
    "predict": (
        "[TAG] PATH…",
        "classify images and folders of images, without a server",
        PredictOptions,
    ),
    "notebook": ("", "print the lines that save a notebook's numbers for --reference", Options),
    "verify": ("[TAG]", "check all engines again, on this machine", Options),
    "show": ("[TAG]", "show an artifact as a readable page", Options),
    "list": ("", "list the artifacts of the model store, newest first", Options),
    "use": ("TAG", "verify an artifact, and write it into model.lock", LockOptions),
    "renew": (
        "TAG",
        "import an artifact again with this release; the old one stays",
        EngineOptions,
    ),
    "pack": ("TAG FILE", "write an artifact into one file, for another machine", Options),
    "unpack": ("FILE", "read such a file into the model store; runs nothing in it", UnpackOptions),
}
"""Command, empty for an import → its arguments, its purpose, and its options."""
TAG_HELP = "NAME:VERSION in the model store, or NAME for its latest version"
OR_LOCKED = f"{TAG_HELP} (default: that of model.lock)"
ARGUMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "TAG": ("tag", {"help": TAG_HELP}),
    "[TAG]": ("tag", {"help": OR_LOCKED, "nargs": "?"}),
    "PATH…": ("paths", {"nargs": "+", "type": Path}),
    "FILE": ("file", {"type": Path}),
}
"""Argument, as in `COMMANDS` → its name in `CommandLine`, and argparse's settings."""
EPILOG = "\n".join(
    [
        """\
examples:
  # a network of torchvision with published weights: labels and preprocessing come with them
  python model_import.py --name resnet50 --network torchvision:resnet50 \\
      --weights IMAGENET1K_V2 --golden photos/

  # a network, weights and preprocessing of your own
  python model_import.py --name digits --network network.py:build --weights weights.safetensors \\
      --preprocessing preprocessing.py:DigitsPreprocessing --labels labels.txt --golden samples/

commands, each with a --help of its own:""",
        *(
            f"  {f'{name} {arguments}':<19}  {purpose}"
            for name, (arguments, purpose, _) in COMMANDS.items()
            if name
        ),
        "\nexit status: 0 done, 1 refused (one line says why), 2 wrong arguments, 130 interrupted",
    ]
)


class CommandLine(NamedTuple):
    """A command line without mistakes.

    Attributes:
        command: A key of `COMMANDS`.
        options: Of the command's class.
        json: Print the result as JSON.
        quiet: Print no progress.
        tag: None for the artifact of model.lock.
        paths: Of `predict`.
        file: Of `pack` and `unpack`.
    """

    command: str
    options: Any
    json: bool
    quiet: bool
    tag: str | None = None
    paths: Sequence[Path] = ()
    file: Path = Path()


def read_command_line(arguments: Sequence[str]) -> CommandLine:
    """Read a command line; exit with status 2 and a line for each mistake."""
    command = ""
    if arguments and not arguments[0].startswith("-"):
        command, *arguments = arguments
    command = "" if command == "import" else command  # an import may also be called by its name
    if command not in COMMANDS:
        known = list(COMMANDS)[1:]
        Parser("").error(
            f"unknown command {command!r}{nearest(command, known)}; expected {', '.join(known)}; "
            "an import takes options only, such as --network"
        )
    return Parser(command).read(arguments)


class Parser(argparse.ArgumentParser):
    """The parser of a command; prints each mistake as one line, without the usage in front."""

    def __init__(self, command: str) -> None:
        arguments, purpose, self.options = COMMANDS[command]
        super().__init__(
            prog="model_import.py",
            usage=" ".join(["model_import.py", *command.split(), *arguments.split(), "[options]"]),
            description=purpose,
            epilog=None if command else EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.command = command
        for argument in arguments.split():
            name, settings = ARGUMENTS[argument]
            self.add_argument(name, metavar=argument.strip("[]…"), **settings)
        fields = self.options.model_fields
        for declared in reversed(self.options.__mro__):
            if names := inspect.get_annotations(declared).keys() & fields.keys():
                group = self.add_argument_group(declared.__doc__)
                for name in filter(names.__contains__, fields):
                    _add_option(group, name, fields[name])
        group = self.add_argument_group("output")
        group.add_argument("--json", action="store_true", help="result as JSON on standard output")
        group.add_argument("--quiet", action="store_true", help="no progress")

    def error(self, message: str) -> NoReturn:
        """Print a message, a line each mistake, and exit with status 2."""
        self.exit(2, "".join(f"model_import: {line}\n" for line in message.splitlines()))

    def read(self, arguments: Sequence[str]) -> CommandLine:
        """Read the arguments of the command; exit with status 2 and a line for each mistake."""
        namespace, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            known = map(option_of, self.options.model_fields)
            close = nearest(unknown[0].partition("=")[0], known)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{close}; see --help")
        parsed = vars(namespace)
        if self.command == "predict":
            parsed |= self._tag_and_paths(parsed["tag"], parsed["paths"])
        values = {name: parsed.pop(name) for name in self.options.model_fields if name in parsed}
        try:
            options = self.options.model_validate(values)
        except ValidationError as error:
            self.error("\n".join(mistakes_of(error, self.options)))
        if parsed["json"] and values.get("csv"):
            self.error("--csv and --json: give one of them")
        return CommandLine(command=self.command, options=options, **parsed)

    def _tag_and_paths(self, tag: str | None, paths: list[Path]) -> dict[str, Any]:
        """Return both; the first of several words may be a path too, not a tag."""
        if tag is not None:
            looks_like_path = ":" not in tag and ("/" in tag or "." in tag)
            if looks_like_path or Path(tag).exists():
                paths, tag = [Path(tag), *paths], None
        if missing := [no_such(path, "file") for path in paths if not path.exists()]:
            usage = "usage: predict [TAG] PATH…; model_import.py list shows the tags"
            self.error("\n".join([*missing, usage]))
        return {"tag": tag, "paths": paths}


def _add_option(group: Any, name: str, field: FieldInfo) -> None:
    description = description_of(field)
    if field.annotation is bool:
        group.add_argument(option_of(name), action="store_true", help=description)
        return
    if field.is_required():
        description += " (required)"
    elif field.default not in (None, {}, ()):
        description += f" (default {field.default})"
    types = (field.annotation, *get_args(field.annotation))  # such as Literal[…] | None
    choices = [get_args(item) for item in types if get_origin(item) is Literal]
    group.add_argument(
        option_of(name),
        action="append" if get_origin(field.annotation) is tuple else "store",
        default=argparse.SUPPRESS,
        metavar="|".join(choices[0]) if choices else name.rpartition("_")[2].upper(),
        help=description,
    )
