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
from importer.graphs import OnnxNetwork, check_onnx, load_torchscript, torchscript_takes_batches
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


def torchscript(path: Path, module: torch.nn.Module | None = None) -> Path:
    torch.jit.script(module or SumOfPixels()).save(str(path))
    return path


# TorchScript


def test_a_torchscript_archive_computes(tmp_path: Path) -> None:
    module = load_torchscript(torchscript(tmp_path / "net.pt"))

    assert module(torch.ones(2, 3, 4, 4)).tolist() == [[16.0] * 3] * 2
    assert not module.training


def test_other_files_are_no_torchscript(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2, 3)}, tmp_path / "weights")
    (tmp_path / "text").write_text("no model")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("net/constants.pkl", b"")

    for path in (*tmp_path.iterdir(), tmp_path / "absent", tmp_path):
        assert not is_torchscript(path)
        with pytest.raises(ImportRefused, match="not a TorchScript archive"):
            load_torchscript(path)


def test_a_damaged_torchscript_archive_is_refused(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(torchscript(tmp_path / "net.pt")) as source,
        zipfile.ZipFile(tmp_path / "damaged.pt", "w") as target,
    ):
        for member in source.infolist():
            if not member.filename.endswith("data.pkl"):
                target.writestr(member.filename, source.read(member))

    with pytest.raises(ImportRefused, match=r"damaged\.pt: damaged TorchScript archive"):
        load_torchscript(tmp_path / "damaged.pt")


@pytest.mark.parametrize(
    ("module", "call"), [(Writer(), r"torch\.save"), (Reader(), r"torch\.from_file")]
)
def test_a_torchscript_archive_that_reaches_files_is_refused(
    tmp_path: Path, module: torch.nn.Module, call: str
) -> None:
    path = torchscript(tmp_path / "net.pt", module)

    with pytest.raises(ImportRefused, match=f"calls {call}, which reads or writes files"):
        load_torchscript(path)


def test_a_torchscript_archive_in_half_precision_is_refused_with_the_way_out(
    tmp_path: Path,
) -> None:
    path = torchscript(tmp_path / "net.pt", torch.nn.Linear(3, 2).half())

    with pytest.raises(ImportRefused, match=r"weight is float16, expected float32; call \.float"):
        load_torchscript(path)


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

    assert torchscript_takes_batches(trace, torch.ones(2, 3, 2, 2)) is expected


# ONNX


@pytest.mark.parametrize(
    ("number", "name"), [(TensorProto.FLOAT, "float32"), (TensorProto.UINT8, "uint8")]
)
def test_an_onnx_classifier_is_described(tmp_path: Path, number: int, name: str) -> None:
    classifier = check_onnx(saved_onnx(tmp_path / "net.onnx", input_type=number))

    assert (classifier.input_name, classifier.input_dtype) == ("image", name)
    assert classifier.input_shape == (None, 3, 4, 4)
    assert (classifier.output_name, classifier.output_shape) == ("logits", (None, 2))
    assert classifier.files == {"net.onnx": tmp_path / "net.onnx"}


@pytest.mark.parametrize(
    "options", [{"output_sizes": (None, None)}, {"input_sizes": (-1, 3, 4, 4)}]
)
def test_sizes_that_the_file_leaves_open_are_open_or_inferred(
    tmp_path: Path, options: dict[str, object]
) -> None:
    classifier = check_onnx(saved_onnx(tmp_path / "net.onnx", **options))

    assert classifier.input_shape == (None, 3, 4, 4)
    assert classifier.output_shape == (None, 2)


def test_a_weight_listed_as_input_is_no_image(tmp_path: Path) -> None:
    model = onnx_model()
    model.graph.input.append(helper.make_tensor_value_info("weights", 1, [48, 2]))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())

    assert check_onnx(tmp_path / "net.onnx").input_name == "image"


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
        check_onnx(saved_onnx(tmp_path / "net.onnx", **options))


def test_an_output_that_is_no_row_of_scores_is_refused(tmp_path: Path) -> None:
    model = onnx_model()
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("floats", 1, SIZES))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(ImportRefused, match=r"output 'floats' is float32 .*\(batch, classes\)"):
        check_onnx(tmp_path / "net.onnx")


def test_an_invalid_graph_and_another_file_are_refused_with_the_reason(tmp_path: Path) -> None:
    model = onnx_model()
    data = model.SerializeToString()
    model.graph.node[1].op_type = "Flattten"
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    torch.save({"weight": torch.ones(2, 3)}, tmp_path / "weights.pt")
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])

    with pytest.raises(ImportRefused, match=r"net\.onnx: not valid ONNX \(.*Flattten"):
        check_onnx(tmp_path / "net.onnx")
    for name in ("weights.pt", "cut.onnx"):
        with pytest.raises(
            ImportRefused, match=rf"{name} is no TorchScript and no ONNX file .*expected --net"
        ):
            check_onnx(tmp_path / name)


def with_external_weights(folder: Path, location: str) -> Path:
    """Write a classifier whose weights lie in net.data; the graph says they lie at `location`."""
    model = onnx_model()
    onnx.save(
        model,
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

    assert network.classifier.files == {
        "net.onnx": tmp_path / "net.onnx",
        "net.data": tmp_path / "net.data",
    }
    assert network(torch.ones(2, 3, 4, 4)).tolist() == [[48.0, 48.0]] * 2


@pytest.mark.parametrize("location", ["../net.data", "/etc/passwd", "sub/net.data", ".."])
def test_external_weights_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "inner" / "sub").mkdir(parents=True)
    path = with_external_weights(tmp_path / "inner", location)
    shutil.copy(tmp_path / "inner" / "net.data", tmp_path)
    shutil.copy(tmp_path / "inner" / "net.data", tmp_path / "inner" / "sub")

    with pytest.raises(ImportRefused, match="they must lie in the folder of the file"):
        check_onnx(path)


def test_external_weights_behind_a_link_or_missing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = with_external_weights(tmp_path / "inner", "linked.data")
    with pytest.raises(ImportRefused, match=r"its weights 'linked\.data' are not beside it"):
        check_onnx(path)

    (tmp_path / "inner" / "linked.data").symlink_to(tmp_path / "inner" / "net.data")
    with pytest.raises(ImportRefused, match=r"its weights 'linked\.data' are not beside it"):
        check_onnx(path)


# What an ONNX graph ends in

IMAGE = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)
SCORES = (IMAGE.flatten() @ torch.linspace(-1, 1, 96).reshape(48, 2)).tolist()
"""Of `onnx_ending`, by its docstring."""


@pytest.mark.parametrize(
    ("ending", "operation"),
    [
        ("Softmax", "softmax"),
        ("Softmax Identity Cast", "softmax"),
        ("Exp/ReduceSum", "softmax"),
        ("function Softmax", "softmax"),
        ("Sigmoid", "sigmoid"),
        ("Sigmoid Identity", "sigmoid"),
        ("1/(1+Exp(-x))", "sigmoid"),
        ("Reciprocal(1+Exp(-x))", "sigmoid"),
    ],
)
def test_a_final_softmax_or_sigmoid_is_named_and_left_out(
    tmp_path: Path, ending: str, operation: str
) -> None:
    network = OnnxNetwork(onnx_ending(tmp_path / "net.onnx", ending))

    assert (network.ends_in, network.activation_cut) == (operation, True)
    np.testing.assert_allclose(network(IMAGE)[0].tolist(), SCORES, atol=1e-4)


@pytest.mark.parametrize(
    ("ending", "operation"),
    [
        ("", None),
        ("Relu", None),
        ("LogSoftmax", "log_softmax"),
        ("Log(Softmax)", "log_softmax"),
        ("HardSigmoid", "hard_sigmoid"),
        ("Clip(x+3,0,6)/6", "hard_sigmoid"),
        ("ArgMax Cast", "argmax"),
        ("TopK", "topk"),
    ],
)
def test_another_final_operation_is_named_and_stays(
    tmp_path: Path, ending: str, operation: str | None
) -> None:
    network = OnnxNetwork(onnx_ending(tmp_path / "net.onnx", ending))

    assert (network.ends_in, network.activation_cut) == (operation, False)


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
