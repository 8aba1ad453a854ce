"""The command line: its help, its table in the docs, and what mistakes get for an answer."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence

import pytest

from image_classifier.artifact.manifest import parse_manifest
from importer.candidates import CANDIDATES
from importer.options import PRECISIONS, ImportOptions, options_table, torchvision_weights
from importer.torchvision_models import known_torchvision_names
from model_import import COMMANDS, command_parser, main, read_command_line
from tests.artifact.builder import contents, manifest_of
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
    print(ended.code, [name for name in ("numpy", "torch", "bentoml") if name in sys.modules])
"""


def mistakes(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> list[str]:
    """The lines that a wrong command line gets; the exit status is 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert all(line.startswith("model_import: ") for line in err.splitlines())
    return [line.removeprefix("model_import: ") for line in err.splitlines()]


def test_the_docs_have_the_table_of_options_and_all_commands() -> None:
    assert options_table(command_parser()) in DOCUMENT
    for name, (arguments, _) in COMMANDS.items():
        assert f"\n| `{f'{name} {arguments}'.strip()}` |" in DOCUMENT


def test_help_has_every_option_with_its_default_and_the_exit_statuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for name, field in ImportOptions.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        if field.default not in (None, {}, ()) and not field.is_required():
            assert f"(default {field.default})" in text
    assert "exit status: 0 done, 1 refused" in text
    assert "predict [TAG] PATH… classify image files" in text


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["use", "--network", "x"], 2)])
def test_help_and_mistakes_load_neither_numpy_nor_torch(arguments: list[str], status: int) -> None:
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
        ("--name", "", "lower-case letters.*found ''"),
        ("--golden-count", "1", "a whole number from 2 up to 4096, found '1'"),
        ("--golden-count", "many", "a whole number from 2 up to 4096, found 'many'"),
        ("--gate-fp32-tolerance", "nan", "a number above 0, found 'nan'"),
        ("--gate-agreement", "1.5", "a number from 0 up to 1, found '1.5'"),
        ("--gate-accuracy-loss", "-1", "a number from 0 up to 1, found '-1'"),
        ("--budget-ms", "50ms", "a number above 0, found '50ms'"),
        ("--measure-seconds", "61", "a number above 0 up to 60, found '61'"),
        ("--network-kwargs", "[1]", "a JSON object, found a list"),
        ("--network-kwargs", "{bad", "a JSON object: .*property name"),
        ("--device", "gpu", r"one of cpu, cuda, found 'gpu'; did you mean cpu\?"),
        ("--engine", "opnvino", r"one of auto, openvino.*'opnvino'; did you mean openvino\?"),
        ("--precision", "int4", r"one of auto, fp32.*'int4'; did you mean int8\?"),
        ("--activation", "softmx", r"one of softmax, sigmoid, none.*; did you mean softmax\?"),
        ("--accept", "chance-acuracy,x", r"did you mean chance-accuracy\?, 'x'$"),
        ("--threshold", "0.5", "belongs to --activation sigmoid"),
        ("--threshold", "1", "a number above 0 and below 1, found '1'"),
        ("--network", "resnet50", "torchvision:NAME or PATH.py:FUNCTION, found 'resnet50'"),
        ("--network", "network.py", "torchvision:NAME or PATH.py:FUNCTION, found 'network.py'"),
        ("--network", f"{DIGITS}/netwrok.py:build", r"no such file; did you mean .*network\.py\?"),
        ("--network", "torchvision:resnet5", r"no classifier 'resnet5'; did you mean resnet50\?"),
        ("--weights", f"{DIGITS}/weigths.safetensors", r"did you mean .*weights\.safetensors\?"),
        ("--weights", f"{DIGITS}", "digits: expected a file"),
        ("--golden", f"{DIGITS}/sample", r"no such folder; did you mean .*/samples\?"),
        ("--golden", f"{DIGITS}/labels.txt", "labels.txt: expected a folder"),
        ("--labels", f"{DIGITS}/label.txt", r"no such file; did you mean .*/labels\.txt\?"),
        ("--labels", f"{SAMPLES}", "samples: expected a file"),
        ("--reference", "nowhere.npz", "nowhere.npz: no such file"),
        ("--preprocessing", "imagenet", "a spec file .* or torchvision:NAME/WEIGHTS, found"),
        ("--preprocessing", "spec.yaml", "spec.yaml: no such file"),
        ("--preprocessing", "torchvision:resnet18/V1", "IMAGENET1K_V1, DEFAULT, found 'V1'"),
        ("--lock", "nowhere/model.lock", "there is no folder .*nowhere; make it"),
        ("--lock", f"{SAMPLES}", "samples: is no file; expected the name of a file"),
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
        (["verfy"], "unknown command 'verfy'; did you mean verify?; there are predict, verify"),
        (["digits:abc"], "unknown command 'digits:abc'; there are predict, verify"),
        (["list", "digits"], "list: unexpected argument 'digits'"),
        (["show", "--jsno"], "unknown option --jsno; did you mean --json?"),
        (["show", "--top-k", "3"], "unknown option --top-k"),
        (["verify", "a", "b"], "verify: unexpected argument 'b'"),
        (["use"], "use: TAG missing"),
        (["use", "Digits:0"], "TAG: expected NAME:VERSION as `list` shows, found 'Digits:0'"),
        (["use", "a:0", "--lock"], "--lock: expected a value"),
        (["pack"], "pack: TAG and FILE missing"),
        (["pack", "digits:0"], "pack: FILE missing"),
        (["unpack", f"{DIGITS}/label.txt"], f"{DIGITS}/label.txt: no such file; did you mean"),
        (["unpack", "x.zip", "--digest", "abc"], "--digest: expected 64 digits of 0-9 and a-f"),
        (["predict"], "predict: PATH… missing"),
        (["predict", "digits:0"], "predict: PATH… missing"),
        (["predict", f"{SAMPLES}/0-1.png"], f"{SAMPLES}/0-1.png: no such file; did you mean"),
        (["predict", f"{SAMPLES}", "--top-k", "0"], "--top-k: expected a whole number from 1"),
        (["predict", f"{SAMPLES}", "--csv", "--json"], "--csv and --json: give one of them"),
        (["renew", "a:0", "--name", "b"], "unknown option --name"),
        (["renew", "a:0", "--engine", "onnxruntime", "--precision", "int8"],
         "--precision: --engine onnxruntime has no int8; expected one of auto, fp32"),
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
    text = "--name X --wieghts w --engine abacus --golden-count 0 --name y --seed 1 verify --lock"

    lines = mistakes(capsys, [*command, *text.split()])

    assert [re.split("[;:]", line)[0] for line in lines] == [
        "--lock",
        "unknown option --wieghts",
        "unknown option --seed",
        "--name",
        "--golden",
        "--golden-count",
        "--engine",
        "unexpected argument 'verify'",
    ]
    assert "did you mean --weights?" in lines[1]
    assert lines[3] == "--name: given 2 times"
    assert lines[4] == "--golden: is required: folder of images the model is verified with"


@pytest.mark.parametrize(
    ("word", "close"), [("-name", "--name"), ("–name", "--name"), ("--golden-lables=x", "--golden")]
)
def test_a_typo_of_an_option_gets_the_nearest_one(
    capsys: pytest.CaptureFixture[str], word: str, close: str
) -> None:
    assert f"did you mean {close}" in mistakes(capsys, [word, "x"])[0]


def test_published_names_read_from_the_source_are_those_of_torchvision() -> None:
    import torchvision.models

    known = torchvision_weights()

    assert sorted(known) == list(known_torchvision_names())
    for name, members in known.items():
        assert members == tuple(torchvision.models.get_model_weights(name).__members__)


def test_an_engine_has_the_precisions_that_are_tried() -> None:
    pairs = {(kind, precision) for kind, found in PRECISIONS.items() for precision in found}

    assert pairs == {(candidate.kind, candidate.precision) for candidate in CANDIDATES}


@pytest.mark.parametrize("name", ["a", "a.b_c-1", "a" * 63])
def test_a_name_that_the_options_take_is_one_of_the_manifest(name: str) -> None:
    given = {option.strip("-"): value for option, value in RIGHT.items()}
    manifest = manifest_of(contents()) | {"name": name}

    assert ImportOptions.model_validate({**given, "name": name}).name == name
    assert parse_manifest(json.dumps(manifest).encode(), "there").name == name


def test_options_and_words_may_stand_in_any_order() -> None:
    given = read_command_line(["predict", f"{SAMPLES}", "--top-k=3", "--csv", f"{DIGITS}"])

    assert (given.tag, given.words, given.options.top_k) == (None, [f"{SAMPLES}", f"{DIGITS}"], 3)
    assert given.csv
    assert read_command_line(["predict", "a:0", f"{SAMPLES}"]).tag == "a:0"
