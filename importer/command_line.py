"""The command line of model_import.py: reads it, and says in a line each what is wrong with it.

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
        "classify image files and folders of them, without a server",
        PredictOptions,
    ),
    "notebook": ("", "print the lines that save a notebook's numbers for --reference", Options),
    "verify": ("[TAG]", "run all certificates again, on this machine", Options),
    "show": ("[TAG]", "show an artifact as a readable page", Options),
    "list": ("", "list the artifacts of the model store, newest first", Options),
    "use": ("TAG", "verify an artifact, and write it into model.lock", LockOptions),
    "renew": (
        "TAG",
        "prove an artifact again with this release; the old one stays",
        EngineOptions,
    ),
    "pack": ("TAG FILE", "write an artifact into one file, for another machine", Options),
    "unpack": (
        "FILE",
        "read such a file into the model store; runs nothing that is in it",
        UnpackOptions,
    ),
}
"""Command, empty for an import → its arguments, what it does, and its options."""
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
        options: Of the command's kind.
        words: One for each argument of the command; None for a tag that was not given, a list for
            paths.
    """

    command: str
    options: Any
    words: list[Any]
    json: bool
    quiet: bool


def read_command_line(arguments: Sequence[str]) -> CommandLine:
    """Read a command line; exit with status 2 and a line for each mistake."""
    command = ""
    if arguments and not arguments[0].startswith("-"):
        command, *arguments = arguments
    command = "" if command == "import" else command  # an import may also be called by its name
    if command not in COMMANDS:
        parser, known = Parser(""), list(COMMANDS)[1:]
        close = nearest(command, [*known, *parser.known])
        parser.error(
            f"unknown command {command!r}{close}; there are {', '.join(known)}; an import "
            "takes options only, such as --network"
        )
    return Parser(command).read(arguments)


class Parser(argparse.ArgumentParser):
    """The command line of a command; each mistake is one line, without the usage in front."""

    def __init__(self, command: str) -> None:
        arguments, purpose, self.options = COMMANDS[command]
        about = "TAG is NAME:VERSION in the model store" if "TAG" in arguments else ""
        about += " (default: the one of model.lock)" * arguments.startswith("[")
        super().__init__(
            prog="model_import.py",
            usage=" ".join(["model_import.py", *command.split(), *arguments.split(), "[options]"]),
            description=purpose,
            epilog=about if command else EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.command = command
        fields = self.options.model_fields
        self.known = ["--help", "--json", "--quiet", *map(option_of, fields)]
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
        """Read what stands behind the command; exit with status 2 and a line for each mistake."""
        namespace, rest = self.parse_known_args(arguments)
        values = vars(namespace)
        json, quiet = values.pop("json"), values.pop("quiet")
        words, mistakes = [], []
        for before, text in zip(["", *rest], rest, strict=False):
            if text.startswith("-"):
                name = text.partition("=")[0]
                close = nearest(name, self.known) or "; --help lists all"
                mistakes.append(f"unknown option {name}{close}")
            elif "=" in before or not before.startswith("-"):  # else the value of an unknown one
                words.append(text)
        options = None
        try:
            options = self.options.model_validate(values)
        except ValidationError as error:
            mistakes += mistakes_of(error, self.options)
        if json and values.get("csv"):
            mistakes.append("--csv and --json: give one of them")
        found = self._words(words, mistakes)
        if mistakes:
            self.error("\n".join(mistakes))
        return CommandLine(self.command, options, found, json, quiet)

    def _words(self, words: list[str], mistakes: list[str]) -> list[Any]:
        """Return a value for each argument of the command; append what is wrong with the words."""
        takes = COMMANDS[self.command][0].split()
        found: list[Any] = []
        if "[TAG]" in takes:
            is_tag = words and not (
                "PATH…" in takes and (":" not in words[0] or Path(words[0]).exists())
            )
            found.append(words.pop(0) if is_tag else None)
            takes.remove("[TAG]")
        if len(words) < len(takes):
            missing = " and ".join(takes[len(words) :])
            mistakes.append(f"{self.command}: {missing} missing; see --help")
        elif len(words) > len(takes) and "PATH…" not in takes:
            unexpected = words[len(takes)]
            mistakes.append(f"{self.command or 'import'}: unexpected argument {unexpected!r}")
        if self.command in ("predict", "unpack"):
            mistakes += [no_such(Path(word), "file") for word in words if not Path(word).exists()]
            if mistakes and self.command == "predict":
                mistakes.append("predict: a TAG is NAME:VERSION; model_import.py list shows them")
        return [*found, *([words] if "PATH…" in takes else words)]


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
    choices = [get_args(one) for one in types if get_origin(one) is Literal]
    group.add_argument(
        option_of(name),
        action="append" if get_origin(field.annotation) is tuple else "store",
        default=argparse.SUPPRESS,
        metavar="|".join(choices[0]) if choices else name.rpartition("_")[2].upper(),
        help=description,
    )
