"""Finished graphs: TorchScript archives and ONNX files, described or refused."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from importer.errors import ImportRefused
from importer.graphs import OnnxNetwork, load_torchscript
from importer.network import takes_batches
from importer.weights import is_torchscript
from tests.importer.onnx_models import SIZES, onnx_ending, onnx_model, saved_onnx

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated:DeprecationWarning"),
]


class SumOfPixels(torch.nn.Module):
    """Sums each channel: logits of a 4×4 image of ones are (16, 16, 16)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=(2, 3))


class Writer(SumOfPixels):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "victim")
        return x


class Reader(SumOfPixels):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("secret", False, 3)


def torchscript(path: Path, module: torch.nn.Module) -> Path:
    torch.jit.script(module).save(str(path))
    return path


# TorchScript


def test_a_torchscript_archive_computes_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    module = load_torchscript(torchscript(tmp_path / "net.pt", SumOfPixels()))

    assert module(torch.ones(2, 3, 4, 4)).tolist() == [[16.0] * 3] * 2
    assert not module.training
    with (
        zipfile.ZipFile(tmp_path / "net.pt") as source,
        zipfile.ZipFile(tmp_path / "damaged.pt", "w") as target,
    ):
        for member in source.infolist():
            if not member.filename.endswith("data.pkl"):
                target.writestr(member.filename, source.read(member))
    with pytest.raises(ImportRefused, match=r"damaged\.pt: damaged TorchScript archive"):
        load_torchscript(tmp_path / "damaged.pt")


def test_other_files_are_no_torchscript(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2, 3)}, tmp_path / "weights")
    (tmp_path / "text").write_text("no model")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("net/constants.pkl", b"")

    for path in (*tmp_path.iterdir(), tmp_path / "absent", tmp_path):
        assert not is_torchscript(path)
        with pytest.raises(ImportRefused, match="not a TorchScript archive"):
            load_torchscript(path)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Writer(), r"calls torch\.save, which reads or writes files"),
        (Reader(), r"calls torch\.from_file, which reads or writes files"),
        (torch.nn.Linear(3, 2).half(), r"weight is float16, expected float32; call \.float"),
    ],
)
def test_torchscript_that_reaches_files_or_is_not_float32_is_refused(
    tmp_path: Path, module: torch.nn.Module, reason: str
) -> None:
    with pytest.raises(ImportRefused, match=reason):
        load_torchscript(torchscript(tmp_path / "net.pt", module))


class Flattened(torch.nn.Module):
    """Flattens by a shape that a trace writes down as numbers."""

    def __init__(self, *, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(self.batch, 12)[:, :2]


@pytest.mark.parametrize(("batch", "expected"), [(1, False), (-1, True)])
def test_a_trace_with_a_batch_size_written_into_it_is_noticed(batch: int, expected: bool) -> None:
    trace = torch.jit.trace(Flattened(batch=batch), torch.ones(1, 3, 2, 2))

    assert takes_batches(trace, trace, torch.ones(2, 3, 2, 2)) is expected


# ONNX


def test_an_onnx_classifier_is_described(tmp_path: Path) -> None:
    model = onnx_model(input_sizes=(-1, 3, 4, 4), output_sizes=(None, None))
    model.graph.input.append(helper.make_tensor_value_info("weights", 1, [48, 2]))  # no image
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())

    network = OnnxNetwork(tmp_path / "net.onnx")

    assert (network.input_name, network.input_dtype) == ("image", "float32")
    assert network.input_shape == (None, 3, 4, 4)
    assert network.files == {"net.onnx": tmp_path / "net.onnx"}
    pixels = OnnxNetwork(saved_onnx(tmp_path / "8.onnx", input_type=TensorProto.UINT8))
    assert pixels.input_dtype == "uint8"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"extra_inputs": 1}, r"inputs \['image', 'in0'\] .*expected one image input"),
        ({"extra_outputs": 1}, r"outputs \['logits', 'more0'\]; expected one"),
        ({"input_sizes": (1, 48)}, r"input 'image' is float32 \(1, 48\), expected four dim"),
        ({"input_type": TensorProto.INT64}, "input 'image' is int64"),
        ({"domain": "com.odd"}, "operators of com.odd, which need a library"),
    ],
)
def test_another_graph_is_no_classifier(
    tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    with pytest.raises(ImportRefused, match=reason):
        OnnxNetwork(saved_onnx(tmp_path / "net.onnx", **options))


def test_an_invalid_graph_and_another_file_are_refused_with_the_reason(tmp_path: Path) -> None:
    wrong_output, wrong_operator = onnx_model(), onnx_model()
    data = wrong_operator.SerializeToString()
    wrong_output.graph.output[0].CopyFrom(helper.make_tensor_value_info("floats", 1, SIZES))
    (tmp_path / "output.onnx").write_bytes(wrong_output.SerializeToString())
    wrong_operator.graph.node[1].op_type = "Flattten"
    (tmp_path / "operator.onnx").write_bytes(wrong_operator.SerializeToString())
    torch.save({"weight": torch.ones(2, 3)}, tmp_path / "weights.pt")
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])

    for name, reason in {
        "output.onnx": r"output 'floats' is float32 .*\(batch, classes\)",
        "operator.onnx": r"operator\.onnx: not valid ONNX \(.*Flattten",
        "weights.pt": r"weights\.pt is no TorchScript and no ONNX file .*expected --net",
        "cut.onnx": r"cut\.onnx is no TorchScript and no ONNX file .*expected --net",
    }.items():
        with pytest.raises(ImportRefused, match=reason):
            OnnxNetwork(tmp_path / name)


def with_external_weights(folder: Path, location: str) -> Path:
    """Write a classifier whose weights lie in net.data; the graph says they lie at `location`."""
    onnx.save(
        onnx_model(),
        str(folder / "net.onnx"),
        save_as_external_data=True,
        location="net.data",
        size_threshold=0,
    )
    stored = onnx.load(str(folder / "net.onnx"), load_external_data=False)
    for entry in stored.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    (folder / "net.onnx").write_bytes(stored.SerializeToString())
    return folder / "net.onnx"


def test_external_weights_beside_the_file_are_part_of_it(tmp_path: Path) -> None:
    network = OnnxNetwork(with_external_weights(tmp_path, "net.data"))

    assert network.files == {name: tmp_path / name for name in ("net.onnx", "net.data")}
    assert network(torch.ones(2, 3, 4, 4)).tolist() == [[48.0, 48.0]] * 2


@pytest.mark.parametrize("location", ["../net.data", "/etc/passwd", "sub/net.data", "..", "link"])
def test_external_weights_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "inner" / "sub").mkdir(parents=True)
    path = with_external_weights(tmp_path / "inner", location)
    for place in (tmp_path, tmp_path / "inner" / "sub"):
        shutil.copy(tmp_path / "inner" / "net.data", place)
    (tmp_path / "inner" / "link").symlink_to(tmp_path / "net.data")

    with pytest.raises(ImportRefused, match=r"they must lie in the folder of the file|not beside"):
        OnnxNetwork(path)


# What an ONNX graph ends in

IMAGE = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)
SCORES = (IMAGE.flatten() @ torch.linspace(-1, 1, 96).reshape(48, 2)).tolist()
"""Of `onnx_ending`, by its docstring."""


@pytest.mark.parametrize(
    ("ending", "operation", "left_out"),
    [
        ("", None, False),
        ("Relu", None, False),
        ("Swish of parts", None, False),
        ("Softmax", "softmax", True),
        ("Softmax Identity Cast", "softmax", True),
        ("Exp/ReduceSum", "softmax", True),
        ("Exp(x-max)/ReduceSum", "softmax", True),
        ("function Softmax", "softmax", True),
        ("Sigmoid", "sigmoid", True),
        ("Sigmoid Identity", "sigmoid", True),
        ("1/(1+Exp(-x))", "sigmoid", True),
        ("Reciprocal(1+Exp(-x))", "sigmoid", True),
        ("LogSoftmax", "log_softmax", False),
        ("Softmax Log", "log_softmax", False),
        ("LogSoftmax Exp", "softmax", True),
        ("x-ReduceLogSumExp", "log_softmax", False),
        ("Sigmoid Log", "log_sigmoid", False),
        ("Neg Softplus Neg", "log_sigmoid", False),
        ("HardSigmoid", "hard_sigmoid", False),
        ("Clip(x+3,0,6)/6", "hard_sigmoid", False),
        ("Clip(x*0.2+0.5,0,1)", "hard_sigmoid", False),
        ("ArgMax Cast", "argmax", False),
        ("TopK", "topk", False),
    ],
)
def test_the_end_of_a_graph_is_named_and_softmax_and_sigmoid_are_left_out(
    tmp_path: Path, ending: str, operation: str | None, left_out: bool
) -> None:
    network = OnnxNetwork(onnx_ending(tmp_path / "net.onnx", ending))

    assert (network.ends_in, network.activation_cut) == (operation, left_out)
    if left_out:
        np.testing.assert_allclose(network(IMAGE)[0].tolist(), SCORES, atol=1e-4)


# Fixed batch sizes


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_size_is_freed_where_images_answer_as_alone(
    tmp_path: Path, batch: int
) -> None:
    path = saved_onnx(tmp_path / "net.onnx", input_sizes=(batch, 3, 4, 4), output_sizes=(batch, 2))

    network = OnnxNetwork(path)

    assert network.batch_size == batch
    assert network.takes_batches
    assert network(torch.ones(3, 3, 4, 4)).tolist() == [[48.0, 48.0]] * 3


def test_a_batch_size_of_one_that_cannot_be_freed_is_noticed(tmp_path: Path) -> None:
    # As a vision transformer does: a class token of batch size 1 is put beside the image.
    model = onnx_model(input_sizes=(1, 3, 4, 4), output_sizes=(1, 2))
    token = numpy_helper.from_array(np.zeros((1, 48), np.float32), "token")
    model.graph.initializer.append(token)
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.ones((96, 2), np.float32), "weights")
    )
    model.graph.node[2].input[0] = "both"
    model.graph.node.insert(2, helper.make_node("Concat", ["flat", "token"], ["both"], axis=1))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())

    network = OnnxNetwork(tmp_path / "net.onnx")

    assert not network.takes_batches
    assert network(torch.ones(3, 3, 4, 4)).tolist() == [[48.0, 48.0]] * 3
