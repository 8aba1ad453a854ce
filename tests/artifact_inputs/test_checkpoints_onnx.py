"""ONNX classifiers: described without running them, refused where they are none."""

import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from image_classifier.artifact.format import ArtifactError
from importer.graphs import check_onnx
from tests.artifact_inputs.onnx_models import SIZES, onnx_model, saved_onnx


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


def test_a_negative_size_is_an_open_one(tmp_path: Path) -> None:
    path = saved_onnx(tmp_path / "net.onnx", input_sizes=(-1, 3, 4, 4))

    assert check_onnx(path).input_shape == (None, 3, 4, 4)


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
