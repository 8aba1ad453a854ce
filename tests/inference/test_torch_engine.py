"""The torch engine on the CPU: reduced precision, its weights, and what it needs at serving."""

from collections.abc import Callable
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
    run_alone,
    store_program,
    tiny_engine,
    tiny_inputs,
    tiny_network,
)


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
def test_reduced_precision_is_torchs_own_autocast_to_the_bit(
    folder: Path, precision: Precision, dtype: torch.dtype
) -> None:
    batch = tiny_inputs(5)
    with torch.inference_mode(), torch.autocast("cpu", dtype=dtype):
        expected = tiny_network()(torch.from_numpy(batch)).float().numpy()

    logits = run(folder, batch, precision)

    assert logits.tobytes() == expected.tobytes()
    assert logits.tobytes() != run(folder, batch).tobytes()


def test_float32_is_kept_whole_on_a_gpu(folder: Path) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True

    run(folder, tiny_inputs(1))

    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.pop("4.bias"), r"4\.bias is missing, the program takes .*\(4,\)"),
        (
            lambda found: found.update({"4.bias": torch.zeros(5)}),
            r"4\.bias is torch.float32 \(5,\), the program takes torch.float32 \(4,\)",
        ),
        (
            lambda found: found.update({"4.bias": found["4.bias"].half()}),
            r"4\.bias is torch.float1",
        ),
    ],
    ids=["missing", "another shape", "another type"],
)
def test_weights_that_do_not_fit_the_program_are_refused(
    folder: Path,
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], object],
    said: str,
) -> None:
    (tmp_path / PROGRAM).write_bytes((folder / PROGRAM).read_bytes())
    weights = load_file(folder / WEIGHTS_NAME)
    change(weights)
    save_file(weights, tmp_path / WEIGHTS_NAME)

    with pytest.raises(ArtifactError, match=said):
        run(tmp_path, tiny_inputs(1))


class Tied(nn.Module):
    """Two layers of one weight, a view of another, and a cast that autocast must get past."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(90, 90), nn.Linear(90, 90)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = self.first(pixels.flatten(1)).to(torch.float32)
        logits: torch.Tensor = self.second(hidden)[:, :4].float() * self.scale
        return logits


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_layers_that_share_a_weight_compute_as_the_network_does(
    tmp_path: Path, precision: Precision, tolerance: float
) -> None:
    torch.manual_seed(3)
    network = PixelsToLogits(Tied(), INPUT_SPEC).eval().requires_grad_(False)
    store_program(network, tmp_path)
    batch = tiny_inputs(3)

    logits = run(tmp_path, batch, precision)

    expected = network(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(logits, expected, atol=tolerance)


class OnColumns(nn.Module):
    """A linear layer of a transposed input, as attention with the batch first has it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(15, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        rows = pixels.permute(0, 2, 1, 3).flatten(2)  # (n, H, 3 * W)
        logits: torch.Tensor = self.layer(rows.transpose(0, 1)).mean(0)
        return logits


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_linear_layer_of_a_transposed_input_is_one_product(
    tmp_path: Path, precision: Precision
) -> None:
    network = PixelsToLogits(OnColumns(), INPUT_SPEC).eval().requires_grad_(False)
    store_program(network, tmp_path)

    with torch.profiler.profile() as profile:
        logits = run(tmp_path, tiny_inputs(3), precision)

    assert "aten::bmm" not in {event.key for event in profile.key_averages()}
    expected = network(torch.from_numpy(tiny_inputs(3))).numpy()
    np.testing.assert_allclose(logits, expected, atol=0.05 if precision == "bf16" else 1e-5)


class Laid(nn.Module):
    """Has a `view` that fits the layout which the export saw."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.permute(0, 2, 3, 1).contiguous().view(-1, 90)[:, :4]


def test_a_view_of_another_layout_than_at_the_export_is_a_copy(tmp_path: Path) -> None:
    network = PixelsToLogits(Laid(), INPUT_SPEC).eval()
    store_program(network, tmp_path)
    program = Program(tmp_path / PROGRAM, tmp_path / WEIGHTS_NAME, "fp32")
    batch = torch.from_numpy(tiny_inputs(3))
    otherwise = batch.transpose(1, 2).contiguous().transpose(1, 2)

    torch.testing.assert_close(program.run(otherwise), network(batch))


WITHOUT_SOURCE = """
import sys
from pathlib import Path
from tests.inference.tiny import tiny_engine, tiny_inputs

print(tiny_engine(Path(sys.argv[1]), "torch", 1).run(tiny_inputs(1)).shape)
print({"importer", "torchvision", "torch._inductor.compile_fx"} & sys.modules.keys())
"""


def test_a_program_runs_without_the_source_of_its_network(folder: Path) -> None:
    done = run_alone(WITHOUT_SOURCE, str(folder))

    assert (done.returncode, done.stdout) == (0, "(1, 4)\nset()\n"), done.stderr
