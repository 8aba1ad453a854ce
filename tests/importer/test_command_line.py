"""The command line: its help, its table in the docs, and the messages for mistakes."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from image_classifier.artifact.manifest import Manifest
from importer.command_line import COMMANDS, Parser, read_command_line
from importer.options import ImportOptions
from tests.artifact.builder import contents, manifest_of
from tests.imports import DIGITS, ROOT, SAMPLES
from tests.programs import run_python

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
    """Return the lines printed for a wrong command line, which exits with status 2."""
    with pytest.raises(SystemExit) as ended:
        read_command_line(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert all(line.startswith("model_import: ") for line in err.splitlines())
    return [line.removeprefix("model_import: ") for line in err.splitlines()]


def options_table() -> str:
    """Return the table of options in docs/import.md, made from the text of --help."""
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
    done = run_python(LOADED, ROOT / "model_import.py", *arguments)

    *help_text, last = done.stdout.splitlines()
    assert last == f"{status} []"
    if status == 0:
        assert "(default 100)" in " ".join(help_text)
        assert "  predict [TAG] PATH…  classify images and" in "\n".join(help_text)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ("--name digits-", "--name: found 'digits-', expected: .*lower-case.* at both ends"),
        ("--golden-count 1", "--golden-count: must be greater than or equal to 2, found '1'"),
        ("--gate-fp32-tolerance nan", "--gate-fp32-tolerance: must be a finite number, found"),
        ("--network-kwargs {bad", "--network-kwargs: Invalid JSON: .*, found '{bad'"),
        ("--device gpu", r"--device: .*'cpu' or 'cuda', found 'gpu'; did you mean cpu\?"),
        ("--accept class-order --accept chance-acuracy", r"--accept: .*mean chance-accuracy\?$"),
        ("--threshold 0.5", "--threshold: belongs to --activation sigmoid"),
        ("--network torchvision:resnet50/DEFAULT", "--network: .*torchvision:NAME or PATH.py:F"),
        # Whether the name of the weights is right depends on the network, so it is no mistake.
        ("--network resnet50 --weights IMAGENET1K_V2", "--network: .*torchvision:NAME or PATH.py"),
        (f"--network {DIGITS}/netwrok.py:build", r"--network: .*no such file; .*network\.py\?"),
        (f"--weights {DIGITS}", "--weights: .*digits: expected a file"),
        (f"--golden {DIGITS}/sample", r"--golden: .*no such folder; did you mean samples\?"),
        (f"--golden {DIGITS}/qqq", r"--golden: .*digits/qqq: no such folder$"),
        ("--preprocessing imagenet", "--preprocessing: .*a spec file .* torchvision:NAME/WEIGHTS"),
        ("--lock nowhere/model.lock", "--lock: .*a folder that can be written"),
        (f"--lock {SAMPLES}", "--lock: .*samples: expected the name of a file"),
        ("--engine onnxruntime --precision int8", "--precision: .*onnxruntime has no int8"),
        ("--device cuda --precision int8", "--precision: .*expected one of auto, bf16, fp16, fp32"),
        ("--device cuda --engine openvino", "--engine: --device cuda does not run openvino"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_option(
    capsys: pytest.CaptureFixture[str], changes: str, expected: str
) -> None:
    right = [part for pair in RIGHT.items() for part in pair]

    (line,) = mistakes(capsys, [*right, *changes.split()])

    assert re.match(expected, line), line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("verfy", "unknown command 'verfy'; did you mean verify?; expected predict, "),
        ("list digits", "unrecognized arguments: digits"),
        ("import verify", "unrecognized arguments: verify"),
        ("--golden-lables=x", "unrecognized arguments: --golden-lables=x; did you mean --golden-l"),
        ("renew a:0 --name b", "unrecognized arguments: --name b; see --help"),
        ("pack", "the following arguments are required: TAG, FILE"),
        (f"predict {SAMPLES}/0-1.png", f"{SAMPLES}/0-1.png: no such file; did you"),
        ("predict a:0", "a:0: no such file"),
        (f"predict typo.png {SAMPLES}", "typo.png: no such file"),
        (f"unpack {SAMPLES} --digest abc", "--digest: found 'abc', expected: sha256"),
    ],
)
def test_the_message_for_a_wrong_command_names_the_nearest_right_one(
    capsys: pytest.CaptureFixture[str], arguments: str, expected: str
) -> None:
    assert mistakes(capsys, arguments.split())[0].startswith(expected)


def test_all_wrong_values_are_reported_together(capsys: pytest.CaptureFixture[str]) -> None:
    lines = mistakes(capsys, ["--name", "X", "--engine", "abacus", "--golden-count", "0"])

    options = [line.partition(":")[0] for line in lines]
    assert options == ["--name", "--weights", "--golden", "--golden-count", "--engine"]
    assert lines[2].startswith("--golden: is required: folder of images")


def test_every_name_that_the_options_accept_is_valid_in_a_manifest() -> None:
    name = "a.b_c-1" * 9
    values = {option.strip("-"): value for option, value in RIGHT.items()}
    manifest = manifest_of(contents()) | {"name": name}

    assert ImportOptions.model_validate({**values, "name": name}).name == name
    assert Manifest.model_validate_json(json.dumps(manifest)).name == name


def test_options_and_arguments_may_be_given_in_any_order() -> None:
    line = read_command_line(["predict", "a:0", f"{SAMPLES}", "--top-k=3", "--csv", f"{DIGITS}"])

    assert line.paths == [Path(SAMPLES), Path(DIGITS)]
    assert (line.tag, line.options.top_k, line.options.csv) == ("a:0", 3, True)
    assert not line.json
    assert read_command_line(["predict", "digits", f"{SAMPLES}"]).tag == "digits"
    assert read_command_line(["verify", "--json"]).tag is None
    assert read_command_line(["verify", "--json", "a:0"]).tag == "a:0"
