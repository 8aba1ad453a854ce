"""Networks: built, guarded against what a user's code does, asked what they end in."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.manifest import Architecture
from importer.errors import ImportRefused
from importer.graphs import OnnxNetwork
from importer.network import (
    ModelSource,
    activation_of,
    build_network,
    final_operation,
    read_graph,
    read_network,
    run_network,
)
from tests.importer.onnx_models import onnx_ending, saved_onnx

HERE = Path(__file__).parent


def network_of(folder: Path, source: str, **kwargs: object) -> nn.Module:
    (folder / "net.py").write_text(source)
    return build_network(Architecture.parse("net.py:build", kwargs), folder)


# Names


@pytest.mark.parametrize("argument", ["weights", "pretrained", "progress", "weights_backbone"])
def test_arguments_that_decide_about_weights_are_refused(argument: str) -> None:
    with pytest.raises(ArtifactError, match=f"{argument} cannot be set"):
        Architecture.parse("torchvision:resnet18", {argument: True})


@pytest.mark.parametrize(
    "text",
    ["resnet50", "torchvision:", "torchvision:resnet-50", "network.py", "network.py:", "net.txt:f",
     "network.py:1st", ""],
)  # fmt: skip
def test_other_forms_of_a_network_are_refused_with_the_two_that_are_taken(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"expected torchvision:NAME or PATH\.py:FUNCTION"):
        Architecture.parse(text, {})


def test_an_architecture_keeps_the_name_of_its_file_and_survives_json() -> None:
    architecture = Architecture.parse("some/where/network.py:build", {"depth": 20})

    assert (architecture.file, architecture.builder) == ("network.py", "build")
    assert Architecture.model_validate_json(architecture.model_dump_json()) == architecture
    assert str(architecture) == "network.py:build(depth=20)"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"torchvision": "resnet18", "file": "a.py", "builder": "f"},
        {"file": "a.py"},
        {"torchvision": "resnet18", "builder": "f"},
        {"file": "../a.py", "builder": "f"},
        {"file": "b/a.py", "builder": "f"},
        {"file": "a.py", "builder": "f()"},
        {"torchvision": "resnet18", "color": "red"},
    ],
)
def test_a_damaged_architecture_is_no_architecture(data: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Architecture.model_validate(data)


# Building


@pytest.mark.parametrize("builder", ["build", "CifarResNet20"])
def test_a_function_or_a_class_of_a_file_builds_the_network(builder: str) -> None:
    architecture = Architecture.parse(f"cifar_resnet.py:{builder}", {"num_classes": 4})

    network = build_network(architecture, HERE)

    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    assert not network.training
    assert not any(value.requires_grad for value in network.parameters())


def test_a_missing_function_is_answered_with_what_the_file_defines() -> None:
    with pytest.raises(ImportRefused, match=r"no function 'make'.* BasicBlock, CifarResNet20"):
        build_network(Architecture.parse("cifar_resnet.py:make", {}), HERE)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\nraise ValueError('bad depth')", r"the file raised ValueError at net\.py, line 2: bad"),
        ("import no_such_package", r"ModuleNotFoundError at net\.py, line 1: No module named 'no"),
        ("import sys\nsys.exit(3)", r"the file raised SystemExit at net\.py, line 2: 3"),
        ("def build():\n    raise KeyError('a\\nb')", r"builder raised KeyError at net\.py, line"),
        ("def build():\n    open('net.yaml')", r"FileNotFoundError .*Path\(__file__\)\.parent"),
        ("def build():\n    raise OSError('\\x1b[31mred\\x1b[0m')", "OSError at .*: red; check"),
        ("def build():\n    return {'a': 1}", r"returned dict, .*the network itself, not its"),
        ("def build():\n    return None", r"returned NoneType, expected a torch\.nn\.Module"),
        ("from torch import nn\ndef build():\n    return nn.Linear(1, 1).half()",
         r"parameter weight is float16, expected float32; call \.float\(\)"),
        ("from torch import nn\ndef build():\n    return nn.Linear(1, 1).double()",
         r"parameter weight is float64, expected float32; call \.float\(\)"),
    ],
)  # fmt: skip
def test_what_a_builder_does_wrong_is_one_line(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ImportRefused, match=message) as caught:
        network_of(tmp_path, source)

    assert str(caught.value).startswith("network net.py:build: ")
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


# Running


class Answers(nn.Module):
    """Returns what it is given to return."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, batch: torch.Tensor) -> object:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"logits": torch.ones(1, 3)}, r"returns dict with 'logits', expected one tensor \(n, cla"),
        ((torch.ones(1, 3), torch.ones(1, 8)), r"tuple of tensor \(1, 3\), tensor \(1, 8\), expec"),
        (object(), "returns object, expected one tensor"),
        (torch.ones(3), r"shape \(3,\) for 1 image.*keep the batch dimension"),
        (torch.ones(()), r"shape \(\) for 1 image.*keep the batch dimension"),
        (torch.ones(1, 3, 1, 1), r"shape \(1, 3, 1, 1\) .*add \.flatten\(1\)"),
        (torch.ones(1, 3, 7, 7), r"shape \(1, 3, 7, 7\) .*return one row of scores"),
        (torch.tensor([[2]]), r"int64 .*class numbers, expected scores; .*what argmax"),
        (torch.tensor([[True]]), "bool .*class numbers, expected scores"),
    ],
)
def test_what_a_forward_returns_instead_of_scores_is_one_line(
    tmp_path: Path, answer: object, message: str
) -> None:
    with pytest.raises(ImportRefused, match=message) as caught:
        run_network(Answers(answer), torch.ones(1, 3, 4, 4), tmp_path)

    assert "\n" not in str(caught.value)


def test_double_precision_scores_become_single(tmp_path: Path) -> None:
    scores = run_network(Answers(torch.ones(1, 3).double()), torch.ones(1, 3, 4, 4), tmp_path)

    assert (scores.dtype, scores.tolist()) == (torch.float32, [[1.0, 1.0, 1.0]])


FORWARD = """
import torch
from torch import nn
class Net(nn.Module):
    def forward(self, batch{more}):
        return {answer}
def build():
    return Net()
"""


@pytest.mark.parametrize(
    ("more", "answer", "message"),
    [
        (", mask", "batch", r"TypeError: .*'mask'; .*takes one batch .* alone"),
        ("", "batch.cuda()", r"at net\.py, line 6: .*no \.cuda\(\)"),
        ("", "batch.reshape(7, 7)", r"on a batch of shape \(1, 3, 4, 4\), raised RuntimeError at "),
        ("", "torch._assert(False, 'Wrong height')", "raised AssertionError at net.*Wrong height"),
    ],
)
def test_what_a_forward_raises_is_one_line_with_the_users_line(
    tmp_path: Path, more: str, answer: str, message: str
) -> None:
    network = network_of(tmp_path, FORWARD.format(more=more, answer=answer))

    with pytest.raises(ImportRefused, match=message) as caught:
        run_network(network, torch.ones(1, 3, 4, 4), tmp_path)

    assert "\n" not in str(caught.value)


# What the outputs mean


@pytest.mark.parametrize(
    ("end", "operation"),
    [
        (nn.ReLU(), None),
        (nn.Sequential(nn.Softmax(1), nn.Dropout(), nn.Flatten()), "softmax"),
        (nn.LogSoftmax(1), "log_softmax"),
        (nn.Hardsigmoid(), "hard_sigmoid"),
    ],
)
@pytest.mark.parametrize("form", ["eager", "traced"])
@pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated")
def test_what_a_network_ends_in_is_seen(end: nn.Module, operation: str | None, form: str) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), end).eval()
    image = torch.ones(1, 3, 2, 2)
    if form == "traced":
        network = torch.jit.trace(network, image)

    assert final_operation(network, image) == operation


def test_functions_at_the_end_of_a_forward_are_seen(tmp_path: Path) -> None:
    for answer, operation in (
        ("torch.sigmoid(batch.flatten(1))", "sigmoid"),
        ("batch.flatten(1).softmax(dim=-1).float()", "softmax"),
        ("batch.flatten(1).topk(3).indices", "topk"),
        ("batch.flatten(1).argmax(1)", "argmax"),
        ("batch.flatten(1).sort(dim=1).values", "topk"),
    ):
        network = network_of(tmp_path, FORWARD.format(more="", answer=answer))
        assert final_operation(network, torch.ones(1, 3, 2, 2)) == operation


@pytest.mark.parametrize(
    ("end", "asked", "expected"),
    [
        (nn.Identity(), None, "softmax"),
        (nn.Identity(), "sigmoid", "sigmoid"),
        (nn.LogSoftmax(1), None, "softmax"),
        (nn.Sigmoid(), "none", "none"),
        (nn.Softmax(1), "none", "none"),
        (nn.Hardsigmoid(), "none", "none"),
        (nn.Sigmoid(), None, "--activation sigmoid, or serve .* --activation none"),
        (nn.Softmax(1), None, "--activation softmax, or serve .* --activation none"),
        (nn.Softmax(1), "softmax", "are probabilities already"),
        (nn.Sigmoid(), "sigmoid", "are probabilities already"),
        (nn.LogSigmoid(), None, "ends in log_sigmoid, so its outputs are probabilities already"),
        (nn.Hardsigmoid(), None, "are probabilities already"),
        (nn.LogSoftmax(1), "sigmoid", "so it is softmax; leave the option out"),
    ],
)
def test_the_activation_follows_from_the_end_of_the_network_or_from_what_was_asked(
    end: nn.Module, asked: Any, expected: str
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), end).eval()
    source = ModelSource(network=network, architecture=None, published=None)
    batch = torch.ones(1, 3, 2, 2)

    if expected in ("softmax", "sigmoid", "none"):
        assert activation_of(source, network, batch, asked) == expected
        return
    with pytest.raises(ImportRefused, match=expected):
        activation_of(source, network, batch, asked)


@pytest.mark.parametrize(
    ("ending", "asked", "expected"),
    [
        ("Softmax", None, "softmax"),
        ("Sigmoid", None, "sigmoid"),
        ("Sigmoid", "softmax", "so it is sigmoid; leave the option out"),
        ("ArgMax Cast", "none", "its outputs are no scores"),
        ("TopK", None, "its outputs are no scores"),
    ],
)
def test_the_activation_of_a_graph_follows_from_its_end(
    tmp_path: Path, ending: str, asked: Any, expected: str
) -> None:
    network = OnnxNetwork(onnx_ending(tmp_path / "net.onnx", ending))
    source = ModelSource(network=network, architecture=None, published=None)

    if expected in ("softmax", "sigmoid"):
        assert activation_of(source, network, torch.ones(1, 3, 4, 4), asked) == expected
        return
    with pytest.raises(ImportRefused, match=expected):
        activation_of(source, network, torch.ones(1, 3, 4, 4), asked)


# From files to a network with its weights


def test_a_network_of_a_file_is_read_from_its_copy_with_its_ignored_weights_listed(
    tmp_path: Path,
) -> None:
    (tmp_path / "staging").mkdir()
    (tmp_path / "net.py").write_text(
        "import json\nfrom pathlib import Path\nfrom blocks import layer\n"
        "def build():\n"
        "    sizes = json.loads((Path(__file__).parent / 'sizes.json').read_text())\n"
        "    return layer(*sizes)\n"
    )
    (tmp_path / "blocks.py").write_text("from torch.nn import Linear as layer\n")
    (tmp_path / "sizes.json").write_text("[3, 2]")
    bias = torch.tensor([1.0, 2.0])
    weights = {"weight": torch.zeros(2, 3), "bias": bias, "aux.bias": torch.ones(9)}
    torch.save(weights, tmp_path / "weights.pt")

    source = read_network(
        f"{tmp_path}/net.py:build",
        {},
        str(tmp_path / "weights.pt"),
        tmp_path / "staging",
        weights_ignore=("aux.*",),
    )

    assert source.network(torch.ones(1, 3)).tolist() == [[1.0, 2.0]]
    assert source.ignored_weights == ("aux.bias",)
    architecture = tmp_path / "staging" / "architecture"
    assert {path.name for path in architecture.iterdir()} == {"net.py", "blocks.py", "sizes.json"}
    stored = load_file(tmp_path / "staging" / "weights.safetensors")
    assert {name: item.tolist() for name, item in stored.items()} == {
        "weight": [[0.0] * 3] * 2,
        "bias": [1.0, 2.0],
    }


def test_a_fine_tuned_inception_needs_to_be_told_what_its_weights_do_not_say(
    tmp_path: Path,
) -> None:
    torch.save({"fc.weight": torch.ones(3, 2048)}, tmp_path / "weights.pt")

    with pytest.raises(ImportRefused, match=r"depend on transform_input.*\"transform_input\": tru"):
        read_network("torchvision:inception_v3", {}, str(tmp_path / "weights.pt"), tmp_path)


@pytest.mark.parametrize(
    ("ending", "note"),
    [("Sigmoid", "ends in sigmoid; its input, the logits, is served"), ("", None)],
)
def test_a_finished_graph_is_kept_as_it_was_given(
    tmp_path: Path, ending: str, note: str | None
) -> None:
    path = onnx_ending(tmp_path / "mine.onnx", ending)
    (tmp_path / "staging").mkdir()

    source = read_graph(path, tmp_path / "staging")

    kept = tmp_path / "staging" / "original" / "network.onnx"
    assert kept.read_bytes() == path.read_bytes()
    assert [part for part in (note,) if part] == [
        text.removeprefix("the graph ") for text in source.notes
    ]


def test_a_fixed_batch_size_is_noted(tmp_path: Path) -> None:
    path = saved_onnx(tmp_path / "n.onnx", input_sizes=(4, 3, 4, 4), output_sizes=(4, 2))
    (tmp_path / "staging").mkdir()

    assert read_graph(path, tmp_path / "staging").notes == (
        "the graph has a fixed batch size of 4; it is made free",
    )
