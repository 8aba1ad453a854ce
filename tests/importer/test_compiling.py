"""Programs compiled with AOTInductor: equal, pinned, and used only where they fit."""

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.evidence import CertifiedEngine, EngineGraph
from image_classifier.artifact.format import ArtifactError, Precision
from image_classifier.artifact.record import EngineAttempt, LatencyPoint
from image_classifier.inference.engine import EngineError, EngineUnavailable
from image_classifier.inference.engines.aotinductor import CompiledProgram
from image_classifier.inference.engines.load import open_graph
from image_classifier.inference.executor import Executor
from image_classifier.inference.startup import load_executor
from importer.certification import _worth_compiling
from importer.compiling import compile_program
from importer.pixels_to_logits import PixelsToLogits
from tests.imports import digits_options, import_quietly, isolated_store
from tests.inference.tiny import INPUT_SPEC, PROGRAM, SHAPE, store_program, tiny_engine, tiny_inputs

pytestmark = [
    pytest.mark.xdist_group("compiled programs"),
    pytest.mark.skipif(not shutil.which("g++"), reason="compiling needs a C++ compiler"),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Import the digits with a program compiled for this processor."""
    home = tmp_path_factory.mktemp("compiled")
    options = digits_options(engine="aotinductor", precision="fp32")
    with isolated_store(home / "bentoml"):
        imported = import_quietly(options, home / "model.lock")
    return open_artifact(home / "bentoml" / "models" / imported.lock.tag.replace(":", "/"))


def package_of(artifact: Artifact) -> CompiledProgram:
    (entry,) = artifact.evidence.engines
    assert entry.package is not None
    return CompiledProgram(
        artifact.path_of(entry.file), entry.precision, artifact.root, entry.package
    )


def with_other_target(artifact: Artifact, *others: CertifiedEngine) -> Artifact:
    """Return an artifact whose package is for another machine, with further engines."""
    (entry,) = artifact.evidence.engines
    assert entry.package is not None
    package = entry.package.model_copy(update={"target": "torch 2.0, GPU A"})
    engines = (entry.model_copy(update={"package": package}), *others)
    evidence = artifact.evidence.model_copy(update={"engines": engines})
    return dataclasses.replace(artifact, evidence=evidence)


def start(artifact: Artifact, engine: str | None = None) -> Executor:
    return load_executor(artifact, engine=engine, budget_ms=50, deterministic=False)


def test_a_compiled_program_is_certified_and_serves(compiled: Artifact) -> None:
    (entry,) = compiled.evidence.engines
    assert (entry.name, entry.certificate.agreement) == ("aotinductor-fp32", 1)
    assert start(compiled).plan.engine == "aotinductor-fp32"  # with its self-check


def test_the_package_is_evidence_and_not_identity(compiled: Artifact, tmp_path: Path) -> None:
    (file,) = compiled.evidence.packages
    assert file not in compiled.manifest.files
    shutil.copytree(compiled.root, tmp_path, dirs_exist_ok=True)
    with (tmp_path / file).open("r+b") as package:
        package.seek(1_000)
        package.write(b"other")

    with pytest.raises(ArtifactError, match=file):
        open_artifact(tmp_path)


def test_batches_that_the_package_would_misread_are_refused(compiled: Artifact) -> None:
    program = package_of(compiled)
    pixels = torch.zeros(1, *program.input_shape, dtype=torch.uint8)
    assert program.run(pixels).shape == (1, 10)

    for misread in (
        pixels.float(),
        pixels[:, 1:].contiguous(),
        torch.zeros(1, *reversed(program.input_shape), dtype=torch.uint8).transpose(1, 3),
        pixels[:0],
        pixels.expand(257, -1, -1, -1).contiguous(),
    ):
        with pytest.raises(EngineError, match="a batch of"):
            program.run(misread)


def test_where_the_package_does_not_fit_the_program_runs_in_torch(
    compiled: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    (entry,) = compiled.evidence.engines
    eager = entry.model_copy(update={"kind": "torch", "package": None})
    elsewhere = with_other_target(compiled, eager)

    with caplog.at_level(logging.WARNING):
        assert start(elsewhere).plan.engine == "torch-fp32"

    assert "was compiled for torch 2.0, GPU A, this is torch 2" in caplog.text
    assert caplog.text.rstrip().endswith("serving with torch-fp32")
    for artifact, engine in [(elsewhere, "aotinductor-fp32"), (with_other_target(compiled), None)]:
        with pytest.raises(EngineUnavailable, match="renew` compiles it here"):
            start(artifact, engine)


def test_a_package_that_cannot_be_loaded_leaves_the_program_to_torch(
    compiled: Artifact, tmp_path: Path
) -> None:
    (entry,) = compiled.evidence.engines
    assert entry.package is not None
    shutil.copytree(compiled.root, tmp_path, dirs_exist_ok=True)
    (tmp_path / entry.package.file).write_bytes(b"damaged")
    eager = entry.model_copy(update={"kind": "torch", "package": None})
    evidence = compiled.evidence.model_copy(update={"engines": (entry, eager)})
    damaged = dataclasses.replace(compiled, root=tmp_path, evidence=evidence)

    assert start(damaged).plan.engine == "torch-fp32"
    with pytest.raises(EngineUnavailable, match="cannot be loaded: "):
        start(damaged, "aotinductor-fp32")


def test_only_after_torch_engines_is_the_precision_to_compile_chosen() -> None:
    bf16 = EngineGraph(kind="aotinductor", precision="bf16", file=PROGRAM)
    faster = LatencyPoint(batch_size=1, streams=1, threads=1, latency_ms=1, images_per_s=2)
    slower = faster.model_copy(update={"images_per_s": 1.0})

    def tried(engine: str, *curve: LatencyPoint) -> EngineAttempt:
        return EngineAttempt(engine=engine, verdict="passed" if curve else "failed", curve=curve)

    for attempts, worth in (
        ([], True),
        ([tried("aotinductor-fp32", faster)], True),
        ([tried("torch-fp32", slower), tried("torch-bf16", faster)], True),
        ([tried("torch-fp32", faster), tried("torch-bf16", slower)], False),
        ([tried("torch-fp32"), tried("torch-bf16")], False),
    ):
        assert _worth_compiling(bf16, attempts, budget_ms=50) == worth


class WithConstants(nn.Module):
    """Has tensors that are no weights, a normalisation with statistics and an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.filter, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)
        self.scale = torch.tensor([2.0, 1.0, 0.5, 4.0])
        self.mixing = torch.linspace(-1, 1, 64).reshape(8, 8)  # too large to be compiled in

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        rows = self.norm(self.filter(pixels)).relu().flatten(2).transpose(1, 2)
        rows = rows + self.attention(rows, rows, rows, need_weights=False)[0]
        shift = torch.tensor([0.1, 0.2, 0.3, 0.4])
        shift += 1
        logits: torch.Tensor = self.head(rows.mean(1) @ self.mixing) * self.scale + shift
        return logits


@pytest.mark.all
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_a_package_of_a_layered_network_equals_its_program(
    tmp_path: Path, precision: Precision, tolerance: float
) -> None:
    torch.manual_seed(3)
    network = PixelsToLogits(WithConstants(), INPUT_SPEC).eval().requires_grad_(False)
    store_program(network, tmp_path)
    (tmp_path / "engines").mkdir()
    graph = EngineGraph(kind="aotinductor", precision=precision, file=PROGRAM)
    plan_sizes = (1, 2, 3, 8)
    batch = tiny_inputs(8)
    expected = tiny_engine(tmp_path, "torch", *plan_sizes, precision=precision).run(batch)

    program = open_graph(compile_program(graph, tmp_path), tmp_path, SHAPE)
    assert isinstance(program.__self__, CompiledProgram)  # type: ignore[attr-defined]
    for size in plan_sizes:
        logits = program.__self__.run(torch.from_numpy(batch[:size]))  # type: ignore[attr-defined]
        np.testing.assert_allclose(logits.numpy(), expected[:size], atol=tolerance)
