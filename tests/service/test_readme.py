"""The README's commands run, at least as a dry run."""

import json
import os
import re
import shlex
from typing import Any

import pytest

from importer.command_line import Parser, read_command_line
from tests.imports import DIGITS, ROOT
from tests.programs import run_program
from tests.service.server import Server

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]
TARGETS = set(re.findall(r"`make ([a-z-]+)", README)) | {
    command[1] for command in COMMANDS if command[0] == "make"
}


def run(words: list[str]) -> str:
    # Inside `make test`, a nested make would mention its parent in its output.
    outside = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = run_program(*words, cwd=ROOT, env=outside)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(program: str) -> list[list[str]]:
    return [command for command in COMMANDS if command[0].endswith(program)]


def test_every_command_is_checked_here() -> None:
    kinds = {command[0].rpartition("/")[2] for command in COMMANDS}

    assert kinds <= {"git", "make", "curl", "python", "bentoml"}
    assert commands("curl")
    assert {"serve", "test", "help", "bento"} <= TARGETS


def test_the_request_gets_the_documented_answer(embedded: Server) -> None:
    (request,) = commands("curl")
    shown = json.loads(re.findall(r"```json\n(.*?)```", README, re.DOTALL)[0])
    words = [word.replace("http://127.0.0.1:3000", embedded.url) for word in request]
    file = words[words.index("-T") + 1]
    by_form = ["curl", "-F", f"image=@{file}", words[-1]]

    for command in (words, by_form):
        answer = json.loads(run([command[0], "--silent", "--fail", *command[1:]]))

        assert without_probabilities(answer) == without_probabilities(shown)
        # Other processors may round the last digits differently.
        for actual, expected in zip(answer["predictions"], shown["predictions"], strict=True):
            assert actual["probability"] == pytest.approx(expected["probability"], abs=1e-5)
    assert shown["model"]["digest"].startswith(shown["model"]["tag"].removeprefix("digits:"))


def without_probabilities(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of an answer that depend on neither machine nor preprocessing version."""
    assert re.fullmatch(r"digits:[0-9a-f]{16}", answer["model"]["tag"])
    assert re.fullmatch(r"[0-9a-f]{64}", answer["model"]["digest"])
    assert re.fullmatch(r"[0-9a-f]{32}", answer["request_id"])
    ranked = [(each["label"], each["class_id"]) for each in answer["predictions"]]
    return {**answer, "predictions": ranked, "model": None, "request_id": None}


def test_make_help_lists_every_documented_target() -> None:
    listed = set(re.findall(r"^ *make ([a-z-]+)", run(["make", "help"]), re.MULTILINE))

    assert TARGETS - {"help"} <= listed
    for target in TARGETS - {"help"}:
        assert run(["make", "--dry-run", "--always-make", target])
    serve = run(["make", "--dry-run", "serve", "PORT=3999"]).strip()
    assert serve.endswith("bentoml serve --host 127.0.0.1 --port 3999")


def test_make_import_names_existing_files() -> None:
    dry = run(["make", "--dry-run", "import"]).replace("\\\n", " ")
    (line,) = [line for line in dry.splitlines() if "model_import.py" in line]

    options = read_command_line(shlex.split(line.replace("\t", " "))[2:]).options

    assert options.name == "digits"
    assert (ROOT / options.weights).is_file()
    assert (ROOT / str(options.labels)).is_file()
    assert (ROOT / options.golden).is_dir()
    for named in (options.network, options.preprocessing):
        assert (ROOT / str(named).partition(":")[0]).parent == DIGITS


def test_the_documented_imports_are_valid() -> None:
    for command in commands("python"):
        assert command[1] == "model_import.py"
        options, rest = Parser("").parse_known_args(command[2:])
        assert options.name == command[command.index("--name") + 1]
        assert not rest


def test_every_link_of_every_document_leads_to_a_file() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/*/README.md")]
    links = {
        (page.name, link): page.parent / link
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in link
    }

    assert {name for name, _ in links} > {"README.md", "admission.md"}
    assert [where for where, path in links.items() if not path.exists()] == []
