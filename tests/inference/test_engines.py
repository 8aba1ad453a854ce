"""Real engines on a tiny network, compared with eager torch and arithmetic by hand."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from image_classifier.artifact.evidence import EngineGraph, EngineKind
from image_classifier.artifact.format import ArtifactError
from image_classifier.inference.engine import EngineUnavailable
from image_classifier.inference.engines.load import accelerator_of, effective_precision
from image_classifier.inference.engines.onnxruntime import CUDA
from importer import certification
from importer.export import export_onnx
from importer.pixels_to_logits import PixelsToLogits
from tests.inference.tiny import (
    INPUT_SPEC,
    SHAPE,
    store_program,
    tiny_engine,
    tiny_inputs,
    tiny_network,
)
from tests.programs import run_python

pytestmark = pytest.mark.xdist_group("tiny engines")  # one worker exports the graphs
KINDS: tuple[EngineKind, ...] = ("openvino", "onnxruntime", "torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    export_onnx(tiny_network(), tiny_inputs(2), folder / "network.onnx")
    store_program(tiny_network(), folder)
    return folder


def eager(inputs: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(tiny_network()(torch.from_numpy(inputs)).numpy())


class Channels(torch.nn.Module):
    """Logits are the normalised value of each channel at row 1, column 2."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, :, 1, 2]


def test_the_exported_network_normalises_as_worked_out_by_hand() -> None:
    batch = np.zeros((1, *SHAPE), np.uint8)
    batch[0, 1, 2] = (255, 51, 102)
    ready = INPUT_SPEC.model_copy(update={"dtype": "float32", "mean": None, "std": None})

    logits = PixelsToLogits(Channels(), INPUT_SPEC)(torch.from_numpy(batch))
    of_ready = PixelsToLogits(Channels(), ready)(torch.from_numpy(batch.astype(np.float32)))

    # (1 - 0.1) / 0.5 = 1.8, (0.2 - 0.4) / 0.25 = -0.8, (0.4 - 0.6) / 0.2 = -1
    assert logits.tolist() == [pytest.approx([1.8, -0.8, -1.0], abs=1e-6)]
    assert of_ready.tolist() == [[255, 51, 102]]


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_equals_eager_torch_at_every_compiled_size(
    folder: Path, kind: EngineKind
) -> None:
    engine = tiny_engine(folder, kind, 1, 8)
    for batch_size in (1, 8):
        inputs = tiny_inputs(batch_size)

        logits = engine.run(inputs)

        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, eager(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_belong_to_the_caller_and_inputs_may_be_read_only_views(
    folder: Path, kind: EngineKind
) -> None:
    engine = tiny_engine(folder, kind, 2, streams=2)
    whole = tiny_inputs(4)
    whole.setflags(write=False)
    assert engine.run(whole[:2]).shape == (2, 4)
    view = whole[::2]  # not contiguous
    first = engine.run(view)
    before = first.copy()
    np.testing.assert_allclose(first, eager(view.copy()), rtol=1e-5, atol=1e-5)

    engine.run(tiny_inputs(4)[1::2])
    assert first.tolist() == before.tolist()
    # The same input gives the same bits each time.
    assert {engine.run(view).tobytes() for _ in range(20)} == {before.tobytes()}
    first[:] = 0  # writable


def test_a_missing_library_is_reported_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(
        sys.modules, "image_classifier.inference.engines.onnxruntime", raising=False
    )

    with pytest.raises(ArtifactError, match="onnxruntime is not installed; install"):
        tiny_engine(tmp_path, "onnxruntime", 1)


def test_a_gpu_that_onnxruntime_cannot_use_is_no_reason_to_run_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA])
    monkeypatch.setattr("image_classifier.inference.engines.onnxruntime.first_gpu", lambda _: "A1")
    assert accelerator_of("onnxruntime") == "A1"

    # What onnxruntime does instead is warn, or print if CUDA's libraries are missing.
    with (
        pytest.warns(UserWarning, match="is not in available"),
        pytest.raises(EngineUnavailable, match="onnxruntime-gpu cannot use A1; install"),
    ):
        tiny_engine(folder, "onnxruntime", 1)


@pytest.mark.parametrize(
    ("capabilities", "precision"), [(["FP32", "BF16", "INT8"], "bf16"), (["FP32", "INT8"], "fp32")]
)
def test_on_a_cpu_without_bf16_a_bf16_engine_runs_in_fp32_and_is_not_certified(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capabilities: list[str], precision: str
) -> None:
    core = SimpleNamespace(get_property=lambda *_: capabilities)
    monkeypatch.setattr("image_classifier.inference.engines.openvino.shared_core", lambda: core)
    bf16 = EngineGraph(kind="openvino", precision="bf16", file="network.onnx")

    assert effective_precision(bf16) == precision
    assert effective_precision(bf16.model_copy(update={"precision": "int8"})) == "int8"
    if precision == "fp32":
        with pytest.raises(EngineUnavailable, match="no bf16, and the engine runs in fp32"):
            certification._open(bf16, tmp_path, INPUT_SPEC)


class Flat(torch.nn.Module):
    """Views its pixels, as PyTorch's first tutorials do after convolutions."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.view(len(pixels), -1)


def test_a_network_may_view_pixels_in_the_order_of_a_notebooks_tensors() -> None:
    batch = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).view(2, 4, 4, 3)
    ready = INPUT_SPEC.model_copy(update={"mean": None, "std": None})

    logits = PixelsToLogits(Flat(), ready)(batch)

    assert logits[1, :4].tolist() == [48, 51, 54, 57]  # the first row of the first channel


@pytest.mark.parametrize(("cores", "pinned"), [(2, True), (8, False)])
def test_threads_are_pinned_unless_a_quota_leaves_other_cores_to_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cores: int, pinned: bool
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))

    engine: Any = tiny_engine(folder, "openvino", 1)  # with two threads

    compiled = engine._idle[1].get().get_compiled_model()
    assert compiled.get_property("ENABLE_CPU_PINNING") is pinned


STRESS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from tests.inference.tiny import tiny_engine

folder = Path(sys.argv[1])
inputs, expected = np.load(folder / "inputs.npy"), np.load(folder / "expected.npy")
engine = tiny_engine(folder, "openvino", 1, 4, streams=2)

def many(seed):
    random = np.random.default_rng(seed)
    for _ in range(500):
        # A new array each time, freed at once: crashed with shared inputs.
        chosen = random.integers(0, len(inputs), random.choice([1, 4]))
        logits = engine.run(inputs[chosen])
        np.testing.assert_allclose(logits, expected[chosen], rtol=1e-5, atol=1e-5)

with ThreadPoolExecutor(4) as pool:
    list(pool.map(many, range(4)))
if "torch" in sys.modules:
    sys.exit("torch was imported")
"""


def test_two_thousand_inferences_from_four_threads_are_right_and_need_no_torch(
    folder: Path,
) -> None:
    inputs = tiny_inputs(16)
    np.save(folder / "inputs.npy", inputs)
    np.save(folder / "expected.npy", eager(inputs))

    done = run_python(STRESS, folder)

    assert done.returncode == 0, done.stderr


ENGINE_FREED = """
import gc, os, signal, sys, threading
from pathlib import Path
from tests.inference.tiny import tiny_engine

engines = [tiny_engine(Path(sys.argv[1]), "openvino", 1)]
# The last reference is dropped in another thread, as after a measurement.
thread = threading.Thread(target=lambda: (engines.clear(), gc.collect()))
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
os.kill(os.getpid(), signal.SIGTERM)
print("alive", flush=True)
"""


def test_a_signal_is_handled_after_an_engine_was_freed_in_another_thread(folder: Path) -> None:
    done = run_python(ENGINE_FREED, folder)

    assert (done.returncode, done.stdout) == (0, "handled\nalive\n"), done.stderr
