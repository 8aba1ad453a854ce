"""docs/import.md lists every option with its default, and every command."""

import re

from importer.commands import COMMANDS

from importer.options import ImportOptions
from model_import import parser
from tests.imports import ROOT

TEXT = (ROOT / "docs" / "import.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without its two head lines."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines[2:]]


def test_the_table_has_the_options_of_the_parser_in_its_order() -> None:
    documented = [row[0].strip("`") for row in rows("Options")]
    known = [action.option_strings[-1] for action in parser()._actions]

    assert documented == [*known[1:], "--help"]


def test_the_documented_defaults_are_the_parsers() -> None:
    actions = {action.option_strings[-1]: action for action in parser()._actions}

    for option, default, _ in rows("Options"):
        action = actions[option.strip("`")]
        if default == "required":
            assert action.required
        elif found := re.fullmatch(r"`(.*)`", default):
            value = action.default
            assert found[1] == str(getattr(value, "name", value)), option
        else:
            assert action.default in (None, False, "==SUPPRESS=="), option


def test_every_option_of_an_import_can_be_given_on_the_command_line() -> None:
    destinations = {action.dest for action in parser()._actions}

    assert ImportOptions.model_fields.keys() - {"gates"} <= destinations


def test_the_table_has_every_command() -> None:
    assert [row[0].strip("`").split()[0] for row in rows("Commands")] == list(COMMANDS)


def test_the_help_names_every_command() -> None:
    text = parser().format_help()

    for name in COMMANDS:
        assert re.search(rf"^  {name} ", text, re.MULTILINE)
