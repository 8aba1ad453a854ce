"""The command line: its help, its table in the docs, and what mistakes get for an answer."""

import re
import subprocess
import sys
from collections.abc import Sequence

import pytest

from importer.options import ImportOptions, options_table
from model_import import COMMANDS, import_parser, main
from tests.imports import DIGITS, ROOT, SAMPLES

DOCUMENT = (ROOT / "docs" / "import.md").read_text(encoding="utf-8")
RIGHT = {
    "--name": "digits",
    "--network": f"{DIGITS}/network.py:build",
    "--weights": f"{DIGITS}/weights.safetensors",
    "--golden": f"{SAMPLES}",
}
LOADED = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    print(ended.code, [name for name in ("torch", "onnx", "bentoml", "openvino") if name in sys.modules])
"""  # noqa: E501


def mistakes(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> list[str]:
    """The lines that a wrong command line gets; the exit status is 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert all(line.startswith("model_import: ") for line in err.splitlines())
    return [line.removeprefix("model_import: ") for line in err.splitlines()]


def test_the_docs_have_the_table_of_options_and_all_commands() -> None:
    assert options_table(import_parser()) in DOCUMENT
    for name in COMMANDS:
        assert re.search(rf"^\| `{name}\b", DOCUMENT, re.MULTILINE)
        assert re.search(rf"^  {name} ", import_parser().format_help(), re.MULTILINE)


def test_every_field_is_an_option_with_a_description_and_its_default() -> None:
    text = " ".join(import_parser().format_help().split())

    for name, field in ImportOptions.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        assert field.description
        if field.default not in (None, {}, ()) and not field.is_required():
            assert f"(default {field.default})" in text


def test_help_shows_an_example_and_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "exit status: 0 done, 1 refused" in shown
    assert "python model_import.py --name" in shown


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--help"], 0), (["--name", "x", "--golden-count", "1"], 2), (["verfy"], 2)],
)
def test_help_and_mistakes_load_neither_torch_nor_bentoml(
    arguments: list[str], status: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(ROOT / "model_import.py"), *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout.splitlines()[-1] == f"{status} []"


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--name", "Digits", "lower-case letters.*found 'Digits'"),
        ("--name", "digits/evil", "lower-case letters.*found 'digits/evil'"),
        ("--name", "digits-", "a letter or digit at both ends, found 'digits-'"),
        ("--golden-count", "1", "a whole number from 2 up to 4096, found '1'"),
        ("--golden-count", "many", "a whole number from 2 up to 4096, found 'many'"),
        ("--gate-fp32-tolerance", "nan", "a number above 0, found 'nan'"),
        ("--gate-fp32-tolerance", "0", "a number above 0, found '0'"),
        ("--gate-agreement", "1.5", "a number from 0 up to 1, found '1.5'"),
        ("--gate-accuracy-loss", "-1", "a number from 0 up to 1, found '-1'"),
        ("--budget-ms", "0", "a number above 0, found '0'"),
        ("--measure-seconds", "61", "a number above 0 up to 60, found '61'"),
        ("--network-kwargs", "[1]", "a JSON object, found a list"),
        ("--network-kwargs", "{bad", "a JSON object: .*property name"),
        ("--engine", "opnvino", r"one of auto, openvino.*'opnvino'; did you mean openvino\?"),
        ("--precision", "int4", r"one of auto, fp32.*'int4'; did you mean int8\?"),
        ("--activation", "softmx", r"one of softmax, sigmoid, none.*; did you mean softmax\?"),
        ("--threshold", "0.5", "belongs to --activation sigmoid"),
        ("--threshold", "1", "a number above 0 and below 1, found '1'"),
        ("--network", "resnet50", "torchvision:NAME or PATH.py:FUNCTION, found 'resnet50'"),
        ("--network", "network.py", "torchvision:NAME or PATH.py:FUNCTION, found 'network.py'"),
        ("--network", f"{DIGITS}/netwrok.py:build", r"no such file; did you mean .*network\.py\?"),
        ("--weights", f"{DIGITS}/weigths.safetensors", r"did you mean .*weights\.safetensors\?"),
        ("--golden", f"{DIGITS}/sample", r"no such folder; did you mean .*/samples\?"),
        ("--golden", f"{DIGITS}/labels.txt", "labels.txt: expected a folder"),
        ("--labels", f"{DIGITS}/label.txt", r"no such file; did you mean .*/labels\.txt\?"),
        ("--labels", f"{SAMPLES}", "samples: expected a file"),
        ("--reference", "nowhere.npz", "nowhere.npz: no such file"),
        ("--preprocessing", "imagenet", "a spec file .* or torchvision:NAME/WEIGHTS, found"),
        ("--preprocessing", "spec.yaml", "spec.yaml: no such file"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option_as_it_was_typed(
    capsys: pytest.CaptureFixture[str], option: str, value: str, expected: str
) -> None:
    (line,) = mistakes(capsys, [part for pair in {**RIGHT, option: value}.items() for part in pair])

    assert re.match(f"{option}: .*{expected}", line), line


def test_all_mistakes_are_told_together(capsys: pytest.CaptureFixture[str]) -> None:
    lines = mistakes(capsys, ["--name", "X", "--engine", "abacus", "--golden-count", "0"])

    assert [line.partition(":")[0] for line in lines] == [
        *("--name", "--weights", "--golden", "--golden-count", "--engine")
    ]
    assert lines[1].startswith("--weights: is required: checkpoint (.safetensors")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--wieghts", "x"], "unknown option --wieghts; did you mean --weights?"),
        (["--lables=x"], "unknown option --lables; did you mean --labels?"),
        (["verfy"], "unknown command 'verfy'; did you mean verify?"),
        (["import", "x.zip"], "unknown command 'import'; there are verify, show"),
        (["show", "--jsno"], "unknown option --jsno"),
        (["pack"], "the following arguments are required: TAG, FILE"),
        (["verify", "a", "b"], "unexpected argument 'b'"),
        (["--name"], "argument --name: expected one argument"),
    ],
)
def test_unknown_words_get_the_nearest_known_one(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    (line,) = mistakes(capsys, arguments)

    assert line.startswith(expected)
