"""The command line: its help, its table in the docs, and what mistakes get for an answer."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence

import pytest

from image_classifier.artifact.manifest import Manifest
from importer.command_line import COMMANDS, Parser, read_command_line
from importer.options import ImportOptions
from tests.artifact.builder import contents, manifest_of
from tests.imports import DIGITS, ROOT, SAMPLES

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
    print(ended.code, [name for name in ("numpy", "torch", "bentoml") if name in sys.modules])
"""


def mistakes(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> list[str]:
    """The lines that a wrong command line gets; the exit status is 2."""
    with pytest.raises(SystemExit) as ended:
        read_command_line(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert all(line.startswith("model_import: ") for line in err.splitlines())
    return [line.removeprefix("model_import: ") for line in err.splitlines()]


def options_table() -> str:
    """What docs/import.md says of the options of an import: the text of --help."""
    lines = ["| option | meaning |", "|---|---|"]
    for action in Parser("")._actions:
        metavar = str(action.metavar)
        choices = f"{metavar.replace('|', ', ')}: " if "|" in metavar else ""
        meaning = f"{choices}{action.help}".replace("|", "\\|")
        lines.append(f"| `{action.option_strings[-1]}` | {meaning} |")
    return "\n".join(lines)


def test_the_docs_have_the_table_of_options_and_all_commands() -> None:
    document = (ROOT / "docs" / "import.md").read_text(encoding="utf-8")

    assert options_table() in document
    for name, (arguments, *_) in COMMANDS.items():
        assert not name or f"\n| `{f'{name} {arguments}'.strip()}` |" in document


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["use", "--network", "x"], 2)])
def test_help_and_mistakes_load_neither_numpy_nor_torch(arguments: list[str], status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(ROOT / "model_import.py"), *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    *help_text, last = done.stdout.splitlines()
    assert last == f"{status} []"
    if status == 0:
        assert "(default 100)" in " ".join(help_text)
        assert "  predict [TAG] PATH…  classify image files" in "\n".join(help_text)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        (
            "--name",
            "digits-",
            "lower-case letters.*a letter or digit at both ends, found 'digits-'",
        ),
        ("--golden-count", "1", "greater than or equal to 2, found '1'"),
        ("--gate-fp32-tolerance", "nan", "a finite number, found 'nan'"),
        ("--budget-ms", "50ms", "a valid number, found '50ms'"),
        ("--network-kwargs", "[1]", r"a valid dictionary, found \[1\]"),
        ("--network-kwargs", "{bad", "a JSON object such as .*, found .*property name"),
        ("--device", "gpu", r"'cpu' or 'cuda', found 'gpu'; did you mean cpu\?"),
        ("--accept", "permuted-labels,chance-acuracy", r"did you mean chance-accuracy\?$"),
        ("--threshold", "0.5", "belongs to --activation sigmoid"),
        ("--network", "torchvision:resnet50/DEFAULT", "torchvision:NAME or PATH.py:FUNCTION"),
        ("--network", f"{DIGITS}/netwrok.py:build", r"no such file; did you mean .*network\.py\?"),
        ("--weights", f"{DIGITS}", "digits: expected a file"),
        ("--golden", f"{DIGITS}/sample", r"no such folder; did you mean .*/samples\?"),
        ("--preprocessing", "imagenet", "a spec file .* or torchvision:NAME/WEIGHTS, found"),
        ("--lock", "nowhere/model.lock", "a folder that can be written"),
        ("--lock", f"{SAMPLES}", "samples: expected the name of a file"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_option_as_it_was_typed(
    capsys: pytest.CaptureFixture[str], option: str, value: str, expected: str
) -> None:
    (line,) = mistakes(capsys, [part for pair in {**RIGHT, option: value}.items() for part in pair])

    assert re.match(f"{option}: .*{expected}", line), line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["verfy"], "unknown command 'verfy'; did you mean verify?; there are predict, "),
        (["list", "digits"], "list: unexpected argument 'digits'"),
        (["show", "--jsno"], "unknown option --jsno; did you mean --json?"),
        (["use", "a:0", "--lock"], "argument --lock: expected one argument"),
        (["pack"], "pack: TAG and FILE missing"),
        (["unpack", "x.zip", "--digest", "abc"], "--digest: expected sha256"),
        (["predict", "digits:0"], "predict: PATH… missing"),
        (["predict", f"{SAMPLES}/0-1.png"], f"{SAMPLES}/0-1.png: no such file; did you mean"),
        (["predict", f"{SAMPLES}", "--csv", "--json"], "--csv and --json: give one of them"),
        (["renew", "a:0", "--name", "b"], "unknown option --name"),
        (["renew", "a:0", "--engine", "onnxruntime", "--precision", "int8"],
         "--precision: --engine onnxruntime has no int8; expected one of auto, fp32"),
        (["renew", "a:0", "--device", "cuda", "--engine", "openvino"],
         "--engine: --device cuda does not run openvino; expected auto or torch"),
        (["–name", "x"], "unknown command '–name'; did you mean --name"),
        (["--golden-lables=x"], "unknown option --golden-lables; did you mean --golden-labels"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_told_and_the_nearest_right_one(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert mistakes(capsys, arguments)[0].startswith(expected)


@pytest.mark.parametrize("command", [[], ["import"]])
def test_all_mistakes_are_told_together(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    text = "--name X --wieghts w --engine abacus --golden-count 0 --seed 1 verify"

    lines = mistakes(capsys, [*command, *text.split()])

    assert [re.split("[;:]", line)[0] for line in lines] == [
        "unknown option --wieghts",
        "unknown option --seed",
        "--name",
        "--weights",
        "--golden",
        "--golden-count",
        "--engine",
        "import",
    ]
    assert "did you mean --weights?" in lines[0]
    assert lines[4].startswith("--golden: is required: folder of images")
    assert lines[7] == "import: unexpected argument 'verify'"


def test_a_network_and_a_weights_name_that_are_both_unknown_are_one_mistake(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {**RIGHT, "--network": "resnet50", "--weights": "IMAGENET1K_V2"}

    (line,) = mistakes(capsys, [part for pair in given.items() for part in pair])

    assert line.startswith("--network: expected torchvision:NAME or PATH.py:FUNCTION")


def test_a_name_that_the_options_take_is_one_of_the_manifest() -> None:
    name = "a.b_c-1" * 9
    given = {option.strip("-"): value for option, value in RIGHT.items()}
    manifest = manifest_of(contents()) | {"name": name}

    assert ImportOptions.model_validate({**given, "name": name}).name == name
    assert Manifest.model_validate_json(json.dumps(manifest)).name == name


def test_options_and_words_may_stand_in_any_order() -> None:
    given = read_command_line(["predict", f"{SAMPLES}", "--top-k=3", "--csv", f"{DIGITS}"])

    assert given.words == [None, [f"{SAMPLES}", f"{DIGITS}"]]
    assert (given.options.top_k, given.options.csv, given.json) == (3, True, False)
    assert read_command_line(["predict", "a:0", f"{SAMPLES}"]).words == ["a:0", [f"{SAMPLES}"]]
