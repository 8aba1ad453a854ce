"""A TorchScript or ONNX file in place of network and weights: the same logits, pixels as input."""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.record import Plan
from image_classifier.inference.engines.load import open_graph
from importer.errors import ImportRefused
from importer.options import ImportOptions
from importer.progress import Progress
from tests.importer.linear_graphs import (
    PIXELS,
    SIDE,
    Linear,
    expected,
    onnx_linear,
    options_for,
)
from tests.imports import import_quietly


class Notes(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    folder = tmp_path / "golden"
    folder.mkdir()
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(folder / f"picture{number}.png")
    return folder


def imported(options: ImportOptions, store: Path, progress: Notes | None = None) -> Artifact:
    done = import_quietly(options, store.parent / "model.lock", progress)
    assert {row.verdict for row in done.record.attempts} == {"passed"}, done.record.attempts
    return open_artifact(store / "models" / done.lock.tag.replace(":", "/"))


def served(artifact: Artifact, batch: int) -> dict[str, npt.NDArray[np.float32]]:
    """Logits of PIXELS by every engine, `batch` pictures at a time."""
    found = {}
    for entry in artifact.evidence.engines:
        plan = Plan(
            engine=entry.name, streams=1, threads=1, batch_sizes=(batch,), service_time_ms=1
        )
        engine = open_graph(entry, artifact.root, (SIDE, SIDE, 3))(plan)
        parts = [engine.run(PIXELS[at : at + batch]) for at in range(0, len(PIXELS), batch)]
        found[entry.name] = np.concatenate(parts)
    return found


def test_torchscript_is_served_by_both_engines(store: Path, golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.14 announces the end of TorchScript
        torch.jit.save(torch.jit.script(Linear().eval()), str(path))

    artifact = imported(options_for(path, golden), store)

    assert artifact.manifest.architecture is None
    assert artifact.path_of("original/network.torchscript.pt").read_bytes() == path.read_bytes()
    assert not artifact.path_of("weights.safetensors").exists()
    for batch in (1, 2, 4):
        for name, logits in served(artifact, batch).items():
            np.testing.assert_allclose(logits, expected(), atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("form", "tolerance", "notes"),
    [
        (
            {
                "inputs": "float[4,3,4,4] image",
                "outputs": "float[4,3] out",
                "flat": "Reshape (planes, four_rows)",
                "end": "out = Softmax <axis = 1> (scores)",
            },
            1e-4,
            [
                "the graph ends in softmax; its input, the logits, is served",
                "the graph has a fixed batch size of 4; it is made free",
            ],
        ),
        # Half precision rounds the input to 11 bits: 48 products of about 1 then move by 1e-2.
        ({"inputs": "float16[n,4,4,3] image", "layout": "0,3,1,2"}, 3e-2, []),
    ],
    ids=["batch of 4 and softmax", "channels last in half precision"],
)
def test_onnx_is_served_by_both_engines_at_every_batch_size(
    store: Path,
    golden: Path,
    tmp_path: Path,
    form: dict[str, str],
    tolerance: float,
    notes: list[str],
) -> None:
    path, progress = onnx_linear(tmp_path / "network.onnx", **form), Notes()

    artifact = imported(options_for(path, golden), store, progress)

    unknown = "classes of the golden images are not known, so no accuracy is compared"
    assert progress.texts[: len(notes) + 1] == [*notes, unknown]
    assert artifact.manifest.architecture is None
    assert artifact.path_of("original/network.onnx").read_bytes() == path.read_bytes()
    session = onnxruntime.InferenceSession(str(artifact.path_of("engines/network.onnx")))
    (image,) = session.get_inputs()
    assert (image.type, image.shape) == ("tensor(uint8)", ["n", SIDE, SIDE, 3])
    for batch in (1, 2, 4):
        answers = served(artifact, batch)
        assert set(answers) == {"openvino-fp32", "onnxruntime-fp32"}
        for name, logits in answers.items():
            np.testing.assert_allclose(logits, expected(), atol=tolerance, err_msg=name)


def test_a_graph_that_takes_pixels_gets_them_as_they_are_and_no_second_normalisation(
    store: Path, golden: Path, tmp_path: Path
) -> None:
    path = onnx_linear(tmp_path / "network.onnx", inputs="uint8[n,3,4,4] image")

    with pytest.raises(ImportRefused, match="normalises by itself, the preprocessing has mean"):
        import_quietly(options_for(path, golden), tmp_path / "model.lock")
    artifact = imported(options_for(path, golden, mean=[0.0] * 3, std=[1.0] * 3), store)

    for logits in served(artifact, 2).values():
        np.testing.assert_allclose(logits, expected(normalised=False) * 255, rtol=1e-4, atol=1e-2)


def test_a_graph_whose_batch_size_of_one_cannot_be_freed_serves_one_image_at_a_time(
    store: Path, golden: Path, tmp_path: Path
) -> None:
    # Of the batch the first image alone is taken, so two images would answer as one.
    path = onnx_linear(
        tmp_path / "network.onnx",
        inputs="float[1,3,4,4] image",
        outputs="float[1,3] out",
        end="out = Gather <axis = 0> (scores, first)",
    )

    artifact = imported(options_for(path, golden), store)

    assert artifact.record
    assert artifact.record.plan.batch_sizes == (1,)
    assert not artifact.manifest.takes_batches
    for logits in served(artifact, 1).values():
        np.testing.assert_allclose(logits, expected(), atol=1e-4)
