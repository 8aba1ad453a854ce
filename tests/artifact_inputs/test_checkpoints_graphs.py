"""Finished graphs: TorchScript archives and ONNX files, told by content, checked, not trusted."""

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper

from artifact.checkpoints import read_state_dict
from artifact.checkpoints_graphs import check_onnx, load_torchscript
from artifact.checkpoints_kinds import is_onnx, is_torchscript
from artifact.errors import ArtifactError

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated:DeprecationWarning"),
]
SIZES: tuple[str | int, ...] = ("n", 3, 4, 4)


class FlatLinear(torch.nn.Module):
    """Sums the channels: logits of an image of ones are (16, 16, 16)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=(2, 3))


class Writer(FlatLinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "victim")
        return x


class Reader(FlatLinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("secret", False, 3)


def torchscript(path: Path, module: torch.nn.Module | None = None) -> Path:
    torch.jit.script(module or FlatLinear()).save(str(path))
    return path


def onnx_model(
    *,
    input_type: int = TensorProto.FLOAT,
    input_sizes: Sequence[str | int] = SIZES,
    output_sizes: Sequence[str | int | None] = ("n", 2),
    extra_inputs: int = 0,
    extra_outputs: int = 0,
    domain: str = "",
) -> onnx.ModelProto:
    """Flatten and multiply with ones: (n, 3, 4, 4) → (n, 2)."""
    weights = numpy_helper.from_array(np.ones((48, 2), np.float32), "weights")
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        *(helper.make_node("Identity", ["flat"], [f"more{i}"]) for i in range(extra_outputs)),
    ]
    if domain:
        nodes.append(helper.make_node("Odd", ["flat"], ["odd"], domain=domain))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", input_type, input_sizes)]
        + [helper.make_tensor_value_info(f"in{i}", 1, [1]) for i in range(extra_inputs)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output_sizes)]
        + [helper.make_tensor_value_info(f"more{i}", 1, ["n", 48]) for i in range(extra_outputs)],
        [weights],
    )
    imports = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def saved_onnx(path: Path, **options: object) -> Path:
    path.write_bytes(onnx_model(**options).SerializeToString())
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    torch.save({"weight": torch.ones(2, 3)}, tmp_path / "a.pt")
    legacy = tmp_path / "b.pt"
    torch.save({"weight": torch.ones(2, 3)}, legacy, _use_new_zipfile_serialization=False)
    safetensors.torch.save_file({"weight": torch.ones(2, 3)}, tmp_path / "c.safetensors")
    (tmp_path / "text").write_text("no model")
    (tmp_path / "empty").touch()
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("constants.pkl", b"")
    return {
        "torchscript": torchscript(tmp_path / "d.pt"),
        "onnx": saved_onnx(tmp_path / "e.pt"),
        **{name: tmp_path / name for name in ("a.pt", "b.pt", "c.safetensors", "text", "empty")},
        "zip": tmp_path / "zip",
        "folder": tmp_path,
        "absent": tmp_path / "absent",
    }


def test_the_kind_is_told_by_content(files: dict[str, Path]) -> None:
    assert [name for name, path in files.items() if is_torchscript(path)] == ["torchscript"]
    assert [name for name, path in files.items() if is_onnx(path)] == ["onnx"]


def test_graphs_given_as_weights_are_called_what_they_are(files: dict[str, Path]) -> None:
    with pytest.raises(ArtifactError, match="a TorchScript archive, not weights"):
        read_state_dict(files["torchscript"])
    with pytest.raises(ArtifactError, match="an ONNX file, not weights"):
        read_state_dict(files["onnx"])


def test_an_onnx_file_cut_short_is_none(files: dict[str, Path], tmp_path: Path) -> None:
    data = files["onnx"].read_bytes()

    for length in (1, 10, len(data) // 2, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:length])
        assert not is_onnx(tmp_path / "cut")


def test_a_torchscript_archive_computes(files: dict[str, Path]) -> None:
    module = load_torchscript(files["torchscript"])

    assert module(torch.ones(2, 3, 4, 4)).tolist() == [[16.0] * 3] * 2
    assert not module.training


@pytest.mark.parametrize("name", ["onnx", "a.pt", "text", "empty", "zip", "absent", "folder"])
def test_other_files_are_no_torchscript(files: dict[str, Path], name: str) -> None:
    with pytest.raises(ArtifactError, match="not a TorchScript archive"):
        load_torchscript(files[name])


def test_a_damaged_torchscript_archive_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(files["torchscript"]) as source,
        zipfile.ZipFile(tmp_path / "damaged.pt", "w") as target,
    ):
        for member in source.infolist():
            if not member.filename.endswith("data.pkl"):
                target.writestr(member.filename, source.read(member))

    with pytest.raises(ArtifactError, match=r"damaged\.pt: damaged TorchScript archive"):
        load_torchscript(tmp_path / "damaged.pt")


@pytest.mark.parametrize(
    ("module", "call"), [(Writer(), r"torch\.save"), (Reader(), r"torch\.from_file")]
)
def test_a_torchscript_archive_that_reaches_files_is_refused(
    tmp_path: Path, module: torch.nn.Module, call: str
) -> None:
    path = torchscript(tmp_path / "net.pt", module)

    with pytest.raises(ArtifactError, match=f"calls {call}, which reads or writes files"):
        load_torchscript(path)


@pytest.mark.parametrize(
    ("number", "name"), [(TensorProto.FLOAT, "float32"), (TensorProto.UINT8, "uint8")]
)
def test_an_onnx_classifier_is_described(tmp_path: Path, number: int, name: str) -> None:
    signature = check_onnx(saved_onnx(tmp_path / "net.onnx", input_type=number))

    assert (signature.input_name, signature.input_dtype) == ("image", name)
    assert signature.input_shape == (None, 3, 4, 4)
    assert (signature.output_name, signature.output_shape) == ("logits", (None, 2))
    assert signature.opset == 17
    assert signature.files == {"net.onnx": tmp_path / "net.onnx"}


def test_the_width_is_inferred_where_the_file_does_not_state_it(tmp_path: Path) -> None:
    path = saved_onnx(tmp_path / "net.onnx", output_sizes=(None, None))

    assert check_onnx(path).output_shape == (None, 2)


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
    with pytest.raises(ArtifactError, match=reason):
        check_onnx(saved_onnx(tmp_path / "net.onnx", **options))


def test_an_output_that_is_no_row_of_logits_is_refused(tmp_path: Path) -> None:
    model = onnx_model()
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("floats", 1, SIZES))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(ArtifactError, match=r"output 'floats' is float32 .*\(batch, classes\)"):
        check_onnx(tmp_path / "net.onnx")


def test_an_invalid_graph_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = onnx_model()
    model.graph.node[1].op_type = "Flattten"
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(ArtifactError, match=r"net\.onnx: not valid ONNX \(.*Flattten"):
        check_onnx(tmp_path / "net.onnx")


def test_a_file_that_is_no_onnx_is_refused(files: dict[str, Path]) -> None:
    for name in ("a.pt", "text", "absent", "folder"):
        with pytest.raises(ArtifactError, match="not an ONNX file"):
            check_onnx(files[name])


def with_external_weights(folder: Path, location: str) -> Path:
    """A classifier whose weights lie in net.data; the graph says they lie at `location`."""
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
    signature = check_onnx(with_external_weights(tmp_path, "net.data"))

    assert signature.files == {
        "net.onnx": tmp_path / "net.onnx",
        "net.data": tmp_path / "net.data",
    }


@pytest.mark.parametrize("location", ["../net.data", "/etc/passwd", "sub/net.data", ".."])
def test_external_weights_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "inner" / "sub").mkdir(parents=True)
    path = with_external_weights(tmp_path / "inner", location)
    shutil.copy(tmp_path / "inner" / "net.data", tmp_path)
    shutil.copy(tmp_path / "inner" / "net.data", tmp_path / "inner" / "sub")

    with pytest.raises(ArtifactError, match="they must lie in the folder of the file"):
        check_onnx(path)


def test_external_weights_behind_a_link_or_missing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = with_external_weights(tmp_path / "inner", "linked.data")
    with pytest.raises(ArtifactError, match=r"its weights 'linked\.data' are not beside it"):
        check_onnx(path)

    (tmp_path / "inner" / "linked.data").symlink_to(tmp_path / "inner" / "net.data")
    with pytest.raises(ArtifactError, match=r"its weights 'linked\.data' are not beside it"):
        check_onnx(path)
