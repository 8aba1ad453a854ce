"""Networks: built from a user's code, run, and checked for their last operations."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from image_classifier.artifact.manifest import Architecture
from importer.errors import ImportRefused
from importer.network import (
    ModelSource,
    activation_of,
    build_network,
    read_network,
    run_network,
)
from importer.options import ModelOptions


def network_of(folder: Path, source: str, builder: str = "build", **kwargs: Any) -> Any:
    (folder / "net.py").write_text(source)
    return build_network(Architecture(file="net.py", builder=builder, kwargs=kwargs), folder)


# Building

# Its train returns nothing, unlike nn.Module's.
WIDE = """
from torch import nn
class Wide(nn.Linear):
    def __init__(self, width):
        super().__init__(3, width)
    def train(self, mode=True):
        super().train(mode)
def build(width):
    return Wide(width)
"""


@pytest.mark.parametrize("builder", ["build", "Wide"])
def test_a_function_or_a_class_of_a_file_builds_the_network(tmp_path: Path, builder: str) -> None:
    (tmp_path / "wide+v2 (1).py").write_text(WIDE)  # as browsers name a second download
    architecture = Architecture(file="wide+v2 (1).py", builder=builder, kwargs={"width": 4})

    network: Any = build_network(architecture, tmp_path)

    assert network(torch.zeros(2, 3)).shape == (2, 4)
    assert not any(value.requires_grad for value in network.parameters())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\nraise ValueError('bad')", r"ValueError at net\.py, line 2: bad; .* the folder above"),
        ("open('/research/width.txt')", r"copy width\.txt beside .*\(__file__\)\.parent / 'width"),
        ("open('/research/protos.pt')", r"files of weights do not, but .*\(register_buffer\)"),
        ("import sys\nsys.exit(3)", r"the file raised SystemExit at net\.py, line 2: 3"),
        ("def build():\n    raise KeyError('a\\nb')", r"builder raised KeyError at net\.py, line"),
        ("def build():\n    raise OSError('\\x1b[31mred\\x1b[0m')", "OSError at .*: red; check"),
        ("class Net: ...\nclass Other: ...", r"defines no function 'build'; it defines Net, Other"),
        ("def build():\n    return {'a': 1}", r"returned dict, .*the network itself, not its"),
        ("from torch import nn\ndef build():\n    return nn.Linear(1, 1).half()",
         r"parameter weight is float16, expected float32; call \.float\(\)"),
    ],
)  # fmt: skip
def test_a_mistake_of_a_builder_is_reported_in_one_line(
    tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(ImportRefused, match=message) as caught:
        network_of(tmp_path, source)

    assert str(caught.value).startswith("network net.py:build: ")
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


# Running


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
        ("", "{'logits': batch}", r"returns dict with 'logits', expected one tensor \(n, cla"),
        ("", "(batch[0], object())", r"returns tuple, expected one tensor"),
        ("", "batch[0, :, 0, 0]", r"shape \(3,\) for 1 image.*\.squeeze\(\) would also remove"),
        ("", "batch.mean((2, 3), True)", r"shape \(1, 3, 1, 1\) .*: \.flatten\(1\)"),
        ("", "batch", r"shape \(1, 3, 4, 4\) .*a row of scores per image"),
        ("", "batch.argmax(1)", r"int64 .*class numbers, expected scores; return the input"),
        (", mask", "batch", r"TypeError: .*'mask'; .*takes only one batch "),
        ("", "batch.cuda()", r"forward, .* asks for a GPU at net\.py, line 6; .*remove \.cuda\(\)"),
        ("", "batch.reshape(7, 7)", r"on inputs of shape \(1, 3, 4, 4\), raised RuntimeError at "),
    ],
)
def test_a_forward_that_raises_or_returns_no_scores_is_reported_in_one_line(
    tmp_path: Path, more: str, answer: str, message: str
) -> None:
    network = network_of(tmp_path, FORWARD.format(more=more, answer=answer))

    with pytest.raises(ImportRefused, match=message) as caught:
        run_network(network, torch.ones(1, 3, 4, 4), tmp_path)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("torch.nn.functional.logsigmoid(batch.flatten(1)).view(1, -1)", "ends in a logsigmoid"),
        ("torch.sigmoid(batch.mul_(2).flatten(1)).log()", "ends in a logsigmoid, .*sigmoid$"),
        ("-torch.nn.functional.softplus(-batch.flatten(1))", "ends in a logsigmoid"),
        ("batch.flatten(1).topk(3).values", "ends in topk, so .* no scores in the order of the"),
        ("batch.flatten(1).sort(1)[0][:, :5]", "ends in sort"),
        ("batch.flatten(1).argmax(1, keepdim=True).float()", "ends in argmax"),
        ("100 * torch.sigmoid(batch).flatten(1)", "ends in sigmoid times or .*--activation none"),
        ("1 - 2 * batch.flatten(1).sigmoid()", "ends in sigmoid times or plus"),
        ("(3 * batch).flatten(1).softmax(1).div(torch.full((48,), 0.1))", "ends in softmax times"),
        ("batch.flatten(1).tanh()", "ends in tanh, so"),
        ("batch.flatten(1).relu()", "ends in relu, so"),
        ("batch.flatten(1).exp()", "ends in exp, so its outputs are no logits"),
        ("batch.flatten(1).tanh() @ torch.ones(48, 2) * 3 + torch.ones(2)", None),
        ("(batch * torch.sigmoid(batch)).flatten(1) / 2", None),
        ("batch.flatten(1).log_softmax(1)", None),
        ("torch.from_numpy(batch.numpy()).flatten(1)", None),
    ],
)
@pytest.mark.parametrize("scripted", [False, True])
def test_last_operations_that_the_outputs_do_not_show_are_refused(
    tmp_path: Path, answer: str, message: str | None, scripted: bool
) -> None:
    network = network_of(tmp_path, FORWARD.format(more="", answer=answer))
    pixels = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)
    if scripted:
        with warnings.catch_warnings(action="ignore"):  # torch announces the end of TorchScript
            trace: Any = torch.jit.trace
            network = trace(network, pixels.clone(), check_trace=False)
    source = ModelSource(network=network)

    if message is None:
        assert activation_of(source, pixels, None) == "softmax"
        return
    with pytest.raises(ImportRefused, match=f"^network: {message}"):
        activation_of(source, pixels, None)


# From files to a network with its weights


def test_a_seed_above_the_builder_does_not_repeat_what_the_builder_draws(tmp_path: Path) -> None:
    # The notebook may have drawn other numbers in between.
    seeds = "torch.manual_seed(7); np.random.seed(7); random.seed(7)"
    draws = "torch.rand(3), torch.from_numpy(np.random.rand(3)), torch.tensor([random.random()])"
    source = (
        "import random\nimport numpy as np\nimport torch\n"
        f"{seeds}\n"
        "def build():\n"
        "    network = torch.nn.Linear(3, 2)\n"
        f"    network.drawn = {draws}\n"
        "    return network\n"
    )

    first, second = network_of(tmp_path, source), network_of(tmp_path, source)

    assert not any(map(torch.equal, first.drawn, second.drawn))


def test_a_network_is_built_from_the_copy_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    (tmp_path / "net.py").write_text(
        "import json\nfrom pathlib import Path\nfrom blocks import layer\n"
        "def build():\n"
        "    sizes = json.loads((Path(__file__).parent / 'sizes.json').read_text())\n"
        "    return layer(*sizes)\n"
    )
    (tmp_path / "blocks.py").write_text("from torch.nn import Linear as layer\n")
    (tmp_path / "sizes.json").write_text("[3, 2]")
    weights = {"weight": torch.zeros(2, 3), "bias": torch.tensor([1.0, 2.0])}
    torch.save(weights, tmp_path / "weights.pt")
    options = ModelOptions.model_construct(
        network=f"{tmp_path}/net.py:build", weights=str(tmp_path / "weights.pt")
    )

    source = read_network(options, tmp_path / "staging")

    assert source.network(torch.ones(1, 3)).tolist() == [[1.0, 2.0]]
    architecture = tmp_path / "staging" / "architecture"
    assert {path.name for path in architecture.iterdir()} == {"net.py", "blocks.py", "sizes.json"}
    stored = load_file(tmp_path / "staging" / "weights.safetensors")
    assert stored.keys() == weights.keys()
    assert all(torch.equal(stored[name], weights[name]) for name in weights)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "layer",
    [
        "nn.utils.weight_norm(nn.Linear(3, 2))",
        "nn.utils.spectral_norm(nn.Linear(3, 2))",
        "prune.l1_unstructured(nn.Linear(3, 2), 'weight', 0.5)",
        "Caching(3, 2)",
    ],
)
def test_a_network_built_again_equals_the_trained_one(tmp_path: Path, layer: str) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\nfrom torch import nn\nfrom torch.nn.utils import prune\n"
        "class Caching(nn.Linear):\n"
        "    def train(self, mode=True):\n"  # as LeViT does
        "        super().train(mode)\n"
        "        self.cached = None if mode else self.weight * 2\n"
        "        return self\n"
        "    def forward(self, x):\n        return x @ self.cached.T\n"
        f"def build():\n    return {layer}\n"
    )
    (tmp_path / "staging").mkdir()
    architecture = Architecture(file="net.py", builder="build")
    trained = build_network(architecture, tmp_path).eval()
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    options = ModelOptions.model_construct(
        network=f"{file}:build", weights=str(tmp_path / "weights.pt")
    )

    source = read_network(options, tmp_path / "staging")

    assert source.rebuild is not None
    for network in (source.network, source.rebuild()):
        torch.testing.assert_close(network(torch.ones(1, 3)), trained(torch.ones(1, 3)))


def test_weights_that_are_merged_once_when_evaluation_begins_are_those_of_the_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\nfrom torch import nn\n"
        "class LoRA(nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(3, 2)\n"
        "        self.delta, self.merged = nn.Parameter(torch.zeros(2, 3)), False\n"
        "    def train(self, mode=True):\n"
        "        if not (mode or self.merged):\n"
        "            self.weight.data += self.delta\n"
        "            self.merged = True\n"
        "        return super().train(mode)\n"
    )
    (tmp_path / "staging").mkdir()
    weights = {"weight": torch.zeros(2, 3), "delta": torch.ones(2, 3), "bias": torch.zeros(2)}
    torch.save(weights, tmp_path / "weights.pt")
    options = ModelOptions.model_construct(
        network=f"{file}:LoRA", weights=str(tmp_path / "weights.pt")
    )

    source = read_network(options, tmp_path / "staging")

    assert source.network(torch.ones(1, 3)).tolist() == [[3.0, 3.0]]
