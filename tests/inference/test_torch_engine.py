"""The torch engine on the CPU: reduced precision, weights and requirements."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from image_classifier.artifact.format import WEIGHTS_NAME, ArtifactError, Precision
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.engines.torch import Program
from importer.pixels_to_logits import PixelsToLogits
from tests.inference.tiny import (
    INPUT_SPEC,
    PROGRAM,
    store_program,
    tiny_engine,
    tiny_inputs,
    tiny_network,
)
from tests.programs import run_python


def run(folder: Path, batch: Batch, precision: Precision = "fp32") -> Logits:
    return tiny_engine(folder, "torch", 8, precision=precision).run(batch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    store_program(tiny_network(), folder)
    return folder


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_reduced_precision_equals_autocast_bit_for_bit(
    folder: Path, precision: Precision, dtype: torch.dtype
) -> None:
    batch = tiny_inputs(5)
    with torch.inference_mode(), torch.autocast("cpu", dtype=dtype):
        expected = tiny_network()(torch.from_numpy(batch)).float().numpy()

    logits = run(folder, batch, precision)

    assert logits.tobytes() == expected.tobytes()
    assert logits.tobytes() != run(folder, batch).tobytes()


def test_tf32_is_disabled(folder: Path) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True

    run(folder, tiny_inputs(1))

    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    "bias",
    [None, torch.zeros(5), torch.zeros(4).half()],
    ids=["missing", "shape", "dtype"],
)
def test_weights_that_do_not_fit_the_program_are_refused(
    folder: Path, tmp_path: Path, bias: torch.Tensor | None
) -> None:
    (tmp_path / PROGRAM).write_bytes((folder / PROGRAM).read_bytes())
    weights = load_file(folder / WEIGHTS_NAME)
    del weights["4.bias"]
    save_file(weights | ({} if bias is None else {"4.bias": bias}), tmp_path / WEIGHTS_NAME)

    with pytest.raises(ArtifactError, match=r"4\.bias is not the torch.float32 \(4,\) that"):
        run(tmp_path, tiny_inputs(1))


def expect_eager_logits(network: nn.Module, folder: Path, precision: Precision) -> None:
    """Export a network, and compare its engine with eager torch."""
    pixels_to_logits = PixelsToLogits(network, INPUT_SPEC).eval().requires_grad_(False)
    store_program(pixels_to_logits, folder)
    batch = tiny_inputs(3)

    logits = run(folder, batch, precision)

    expected = pixels_to_logits(torch.from_numpy(batch)).numpy()
    tolerance = 1e-5 if precision == "fp32" else 0.05
    np.testing.assert_allclose(logits, expected, atol=tolerance)


class Tied(nn.Module):
    """Two layers that share a weight, and a cast that autocast must handle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(90, 90), nn.Linear(90, 90)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = self.first(pixels.flatten(1)).to(torch.float32)
        logits: torch.Tensor = self.second(hidden)[:, :4].float() * self.scale
        return logits


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_that_share_a_weight_equal_eager_torch(tmp_path: Path, precision: Precision) -> None:
    torch.manual_seed(3)
    expect_eager_logits(Tied(), tmp_path, precision)


class LinearOfTransposed(nn.Module):
    """A linear layer with a transposed input, as in attention with the batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(15, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        rows = pixels.permute(0, 2, 1, 3).flatten(2)  # (n, H, 3 * W)
        logits: torch.Tensor = self.layer(rows.transpose(0, 1)).mean(0)
        return logits


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_linear_layer_with_a_transposed_input_is_one_product(
    tmp_path: Path, precision: Precision
) -> None:
    expect_eager_logits(LinearOfTransposed(), tmp_path, precision)

    with torch.profiler.profile() as profile:
        run(tmp_path, tiny_inputs(3), precision)
    assert "aten::bmm" not in {event.key for event in profile.key_averages()}


class View(nn.Module):
    """Has a `view` that fits the memory layout of the export."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.permute(0, 2, 3, 1).contiguous().view(-1, 90)[:, :4]


def test_a_view_also_works_with_a_memory_layout_other_than_at_the_export(tmp_path: Path) -> None:
    network = PixelsToLogits(View(), INPUT_SPEC).eval()
    store_program(network, tmp_path)
    program = Program(tmp_path / PROGRAM, tmp_path / WEIGHTS_NAME, "fp32")
    batch = torch.from_numpy(tiny_inputs(3))
    other_layout = batch.transpose(1, 2).contiguous().transpose(1, 2)

    torch.testing.assert_close(program.run(other_layout), network(batch))


WITHOUT_SOURCE = """
import sys
from pathlib import Path
from tests.inference.tiny import tiny_engine, tiny_inputs

print(tiny_engine(Path(sys.argv[1]), "torch", 1).run(tiny_inputs(1)).shape)
print({"importer", "torchvision", "torch._inductor.compile_fx"} & sys.modules.keys())
"""


def test_a_program_runs_without_the_source_of_its_network(folder: Path) -> None:
    done = run_python(WITHOUT_SOURCE, folder)

    assert (done.returncode, done.stdout) == (0, "(1, 4)\nset()\n"), done.stderr
