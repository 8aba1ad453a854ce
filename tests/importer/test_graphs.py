"""Finished graphs, TorchScript archives and ONNX files: refused, or served with their logits."""

import shutil
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from image_classifier.artifact.artifact import Artifact
from image_classifier.artifact.store import open_in_store
from importer.errors import ImportRefused
from importer.graphs import OnnxNetwork, load_torchscript, refuse_other_range
from importer.network import ModelSource, activation_of, read_graph, takes_batches
from importer.options import ImportOptions
from importer.progress import Progress
from preprocessing import InputSpec
from tests.importer.linear_graphs import (
    KERNEL,
    PIXELS,
    SIDE,
    Linear,
    expected,
    onnx_linear,
    options_for,
)
from tests.imports import engine_logits, import_quietly

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*(deprecated|not supported):FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*(deprecated|not supported):DeprecationWarning"),
]
IMAGES = torch.linspace(-1, 1, 4 * 48).reshape(4, 3, 4, 4)
SCORES = IMAGES.numpy().reshape(4, 48) @ KERNEL


class Writer(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "victim")
        return x


class Reader(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("secret", False, 3)


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    (tmp_path / "staging").mkdir()
    return tmp_path / "staging"


def torchscript(path: Path, module: torch.nn.Module) -> Path:
    script: Any = torch.jit.script(module)
    script.save(str(path))
    return path


# TorchScript


def test_a_damaged_torchscript_archive_is_refused(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(torchscript(tmp_path / "net.pt", Linear())) as source,
        zipfile.ZipFile(tmp_path / "damaged.pt", "w") as target,
    ):
        for member in source.infolist():
            if not member.filename.endswith("data.pkl"):
                target.writestr(member.filename, source.read(member))

    with pytest.raises(ImportRefused, match=r"damaged\.pt: damaged TorchScript archive"):
        load_torchscript(tmp_path / "damaged.pt")


def test_torchscript_with_very_long_code_is_refused_before_it_is_decompressed(
    tmp_path: Path,
) -> None:
    path = torchscript(tmp_path / "net.pt", Linear())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/code/bomb.py", bytes((64 << 20) + 1))

    with pytest.raises(ImportRefused, match=r"net/code/bomb\.py is too long to be checked"):
        load_torchscript(path)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Writer(), r"calls torch\.save, which reads or writes files"),
        (Reader(), r"calls torch\.from_file, which reads or writes files"),
        (torch.nn.Linear(3, 2).half(), r"weight is float16, expected float32; call \.float"),
    ],
)
def test_torchscript_that_accesses_files_or_is_not_float32_is_refused(
    tmp_path: Path, module: torch.nn.Module, reason: str
) -> None:
    with pytest.raises(ImportRefused, match=reason):
        load_torchscript(torchscript(tmp_path / "net.pt", module))


@pytest.mark.parametrize(("batch_size", "expected"), [(1, False), (-1, True)])
def test_a_trace_with_a_fixed_batch_size_takes_no_batches(batch_size: int, expected: bool) -> None:
    tracer: Any = torch.jit.trace
    trace = tracer(lambda x: x.reshape(batch_size, 12)[:, :2], torch.ones(1, 3, 2, 2))

    assert takes_batches(ModelSource(network=trace), trace, torch.ones(2, 3, 2, 2)) is expected


# ONNX


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"inputs": "float[n,3,4,4] image, float[1] in0"},
         r"inputs \['image', 'in0'\] .*expected one image input"),
        ({"outputs": "float[n,3] out, float[n,48] flat"}, r"outputs \['out', 'flat'\]; expected"),
        ({"inputs": "float[n,48] image", "layout": "0,1"}, r"\['n', 48\], expected tensor"),
        ({"inputs": "float16[n,3,4,4] image"},
         r"input 'image' is tensor\(float16\) of shape .*, expected tensor\(float\) of"),
        ({"inputs": "float[n,4,4,3] image", "layout": "0,3,1,2"},
         r"takes \['n', 4, 4, 3\], channels last; export it with channels first"),
        ({"outputs": "float[n,3,4,4] planes"}, r"'planes' is tensor\(float\) .*\(batch, classes\)"),
        ({"operators": '"": 17, "com.odd": 1', "end": "out = com.odd.Odd (scores)"},
         r"cannot run it .*com\.odd:Odd.*; export it again, with standard operators"),
        ({"flat": "flat = Flattten(planes)"}, r"net\.onnx: not valid ONNX \(.*Flattten"),
        ({"end": "out, places = TopK <axis = 1> (scores, last)", "outputs": "float[n,1] out"},
         "ends in topk, so its outputs are no scores"),
        ({"end": "p = Sigmoid (scores) out = Log (p)"}, "ends in a logsigmoid, .*remove it"),
        ({"inputs": "float[4,3,4,4] image", "outputs": "float[4,3] out"},
         r"works with batches of 4 only; export it with a dynamic batch axis"),
    ],
)  # fmt: skip
def test_a_graph_that_is_no_image_classifier_is_refused(
    tmp_path: Path, form: dict[str, str], reason: str
) -> None:
    with pytest.raises(ImportRefused, match=reason):
        OnnxNetwork(onnx_linear(tmp_path / "net.onnx", **form))


@pytest.mark.parametrize(
    ("end", "ending"),
    [
        ("p = Sigmoid (scores) k = Constant <value_float = 100.0> () out = Mul (k, p)",
         "sigmoid times or plus a constant"),
        ("t = Tanh (scores) out = Identity (t)", "tanh"),
    ],
)  # fmt: skip
def test_bounded_outputs_are_refused_without_an_activation(
    tmp_path: Path, end: str, ending: str
) -> None:
    network = OnnxNetwork(onnx_linear(tmp_path / "net.onnx", end=end))
    source = ModelSource(network=network)

    assert network.activation is None
    assert activation_of(source, IMAGES[:1], "none") == "none"
    with pytest.raises(ImportRefused, match=f"^network: ends in {ending}, so .*--activation none"):
        activation_of(source, IMAGES[:1], None)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2, 3)}, tmp_path / "weights.pt")
    data = onnx_linear(tmp_path / "net.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])

    for name in ("weights.pt", "cut.onnx"):
        with pytest.raises(ImportRefused, match=f"{name}: no TorchScript and no ONNX file"):
            OnnxNetwork(tmp_path / name)


def with_external_weights(folder: Path, location: str) -> Path:
    """Write a classifier with weights in net.data, to which the graph refers as `location`."""
    path = onnx_linear(folder / "net.onnx")
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location="net.data", size_threshold=100
    )
    stored = onnx.load(path, load_external_data=False)
    for entry in stored.graph.initializer[-1].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(stored.SerializeToString())
    return path


def test_external_weights_beside_the_file_are_part_of_it(tmp_path: Path, staging: Path) -> None:
    source = read_graph(with_external_weights(tmp_path, "net.data"), staging)

    np.testing.assert_allclose(source.network(IMAGES), SCORES, atol=1e-4)
    kept = staging / "original"
    assert (kept / "net.data").read_bytes() == (tmp_path / "net.data").read_bytes()
    np.testing.assert_allclose(OnnxNetwork(kept / "network.onnx")(IMAGES), SCORES, atol=1e-4)


@pytest.mark.parametrize("location", ["../net.data", "/etc/passwd", "..", "link", "absent"])
def test_external_weights_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "inner").mkdir()
    path = with_external_weights(tmp_path / "inner", location)
    shutil.copy(tmp_path / "inner" / "net.data", tmp_path)
    (tmp_path / "inner" / "link").symlink_to(tmp_path / "net.data")

    with pytest.raises(ImportRefused, match=r"not valid ONNX"):
        OnnxNetwork(path)


# What an ONNX graph ends in


@pytest.mark.parametrize(
    ("end", "activation"),
    [
        ("out = LogSoftmax <axis = 1> (scores)", None),
        ("p = Sigmoid (scores) out = Mul (p, scores)", None),
        # Not over the classes, but over groups, as in networks of several attributes.
        ("rows = Unsqueeze (scores, last) p = Softmax <axis = 1> (rows) out = Squeeze (p, last)",
         None),
        ("p = Softmax (scores) q = Identity (p) out = Cast <to = 1> (q)", "softmax"),
        ("out = exporter.Normalised (scores)", "softmax"),
        ("two = Constant <value_ints = [2]> () four = Unsqueeze (scores, two) "
         "p = Softmax <axis = 1> (four) out = Flatten (p)", None),
        ("out = Sigmoid (scores)", "sigmoid"),
    ],
)  # fmt: skip
def test_a_final_softmax_or_sigmoid_becomes_the_activation(
    tmp_path: Path, staging: Path, end: str, activation: Any
) -> None:
    path = onnx_linear(tmp_path / "net.onnx", end=end)

    source = read_graph(path, staging)

    assert (staging / "original" / "network.onnx").read_bytes() == path.read_bytes()
    assert activation_of(source, IMAGES[:1], None) == (activation or "softmax")
    if activation is None:
        assert source.notes == ()
        return
    np.testing.assert_allclose(source.network(IMAGES), SCORES, atol=1e-4)
    assert source.notes == (f"the graph ends in {activation}; the logits before it are served",)
    with pytest.raises(ImportRefused, match=f"ends in {activation}; leave the option out"):
        activation_of(source, IMAGES[:1], "none")


# Imported and served


@pytest.fixture
def golden(store: Path, tmp_path: Path) -> Path:
    """A folder of PIXELS as golden images; the store is empty."""
    (tmp_path / "golden").mkdir()
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / "golden" / f"picture{number}.png")
    return tmp_path / "golden"


def imported(options: ImportOptions, progress: Any = None) -> Artifact:
    done = import_quietly(options, options.golden.parent / "model.lock", progress)
    assert {row.verdict for row in done.record.attempts} == {"passed"}, done.record.attempts
    return open_in_store(done.lock.tag)


def check_logits(artifact: Artifact, *batch_sizes: int, tolerance: float) -> None:
    """Compare both engines' logits of PIXELS with those computed by hand."""
    for batch_size in batch_sizes:
        found = engine_logits(artifact, PIXELS, batch_size)
        assert found.keys() == {"openvino-fp32", "onnxruntime-fp32"}
        for name, logits in found.items():
            np.testing.assert_allclose(logits, expected(), atol=tolerance, err_msg=name)


def test_torchscript_is_served_by_both_engines(golden: Path, tmp_path: Path) -> None:
    path = torchscript(tmp_path / "network.pt", Linear().eval())

    artifact = imported(options_for(path, golden))

    assert artifact.manifest.architecture is None
    assert artifact.path_of("original/network.torchscript.pt").read_bytes() == path.read_bytes()
    assert not artifact.path_of("weights.safetensors").exists()
    check_logits(artifact, 1, 2, 4, tolerance=1e-4)


def test_onnx_is_served_by_both_engines_at_every_batch_size(golden: Path, tmp_path: Path) -> None:
    path = onnx_linear(tmp_path / "network.onnx", end="out = Softmax <axis = 1> (scores)")

    artifact = imported(options_for(path, golden))

    assert artifact.path_of("original/network.onnx").read_bytes() == path.read_bytes()
    session = onnxruntime.InferenceSession(str(artifact.path_of("engines/network.onnx")))
    (image,) = session.get_inputs()
    assert (image.type, image.shape) == ("tensor(uint8)", ["n", SIDE, SIDE, 3])
    check_logits(artifact, 1, 2, 4, tolerance=1e-4)


def test_a_graph_with_a_fixed_batch_size_of_one_serves_one_image_at_a_time(
    golden: Path, tmp_path: Path
) -> None:
    sizes = {"inputs": "float[1,3,4,4] image", "outputs": "float[1,3] out"}
    path = onnx_linear(tmp_path / "network.onnx", flat="flat = Reshape (planes, one_row)", **sizes)
    progress = Mock(wraps=Progress(quiet=True))

    artifact = imported(options_for(path, golden), progress)

    notes = [call.args[0] for call in progress.note.call_args_list]
    notes = [note for note in notes if not note.startswith("other programs are running")]
    assert "a fixed batch size of 1, so one image at a time is served" in notes[0]
    assert artifact.record.plan.batch_sizes == (1,)
    assert not artifact.manifest.takes_batches
    check_logits(artifact, 1, tolerance=1e-4)


@pytest.mark.parametrize(
    ("kind", "constant", "before"),
    [
        ("Add", -123.675, "Identity (planes)"),
        ("Div", 255.0, "Identity (planes)"),
        ("Sub", 127.5, "Concat <axis = 1> (planes)"),
        ("Mul", 1 / 255, "Transpose <perm = [0, 1, 3, 2]> (planes)"),
    ],
)
def test_a_graph_that_normalises_pixels_of_0_to_255_is_not_given_normalised_ones(
    tmp_path: Path, kind: str, constant: float, before: str
) -> None:
    scale = f"moved = {before} scaled = {kind} (moved, by) flat = Flatten (scaled)"
    path = onnx_linear(tmp_path / "net.onnx", flat=scale)
    model = onnx.load(path)
    by = onnx.numpy_helper.from_array(np.array([constant], np.float32), "by")
    model.graph.initializer.append(by)
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    network, plain = OnnxNetwork(path), OnnxNetwork(onnx_linear(tmp_path / "plain.onnx"))
    usual = InputSpec(shape=(4, 4, 3), dtype="uint8", mean=(0.5,) * 3, std=(0.2,) * 3)
    unscaled = usual.model_copy(update={"mean": (0.0,) * 3, "std": (1 / 255,) * 3})

    refuse_other_range(plain, usual)
    refuse_other_range(network, unscaled)
    with pytest.raises(ImportRefused, match=f"begins with {kind} by .* mean 0 and std 1/255"):
        refuse_other_range(network, usual)


def test_a_graph_that_subtracts_the_mean_of_the_preprocessing_is_not_normalised_twice(
    tmp_path: Path,
) -> None:
    path = onnx_linear(
        tmp_path / "net.onnx", flat="moved = Sub (planes, by) flat = Flatten (moved)"
    )
    model = onnx.load(path)
    mean = np.array([0.4, 0.5, 0.6], np.float32).reshape(1, 3, 1, 1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(mean, "by"))
    onnx.save(model, path)
    same = InputSpec(shape=(4, 4, 3), dtype="uint8", mean=(0.4, 0.5, 0.6), std=(0.2,) * 3)

    refuse_other_range(OnnxNetwork(path), same.model_copy(update={"mean": (0.0,) * 3}))
    with pytest.raises(ImportRefused, match="begins with Sub by the mean of the preprocessing"):
        refuse_other_range(OnnxNetwork(path), same)
