"""Compiles torch programs with AOTInductor for this machine; needs a C++ compiler."""

from pathlib import Path

import torch

from image_classifier.artifact.evidence import EngineGraph, Package
from image_classifier.artifact.format import WEIGHTS_NAME, sha256_file
from image_classifier.inference.engines.aotinductor import target_here
from image_classifier.inference.engines.torch import MAX_BATCH, Program
from importer.failures import quiet_exporter

# Weights are in weights.safetensors.
OPTIONS = {"aot_inductor.package_constants_in_so": False}


def compile_program(graph: EngineGraph, root: Path) -> EngineGraph:
    """Compile the program of an artifact; return the engine with its package.

    Takes from half a minute for a tiny network to some minutes.
    """
    program = Program(root / graph.file, root / WEIGHTS_NAME, graph.precision)
    pixels = torch.zeros(
        (2, *program.input_shape), dtype=getattr(torch, program.dtype), device=program.device
    )
    file = f"engines/{graph.name}.pt2"
    with quiet_exporter(f"compile {graph.name}"), torch.no_grad():
        exported = torch.export.export(
            program.forward,
            (pixels,),
            dynamic_shapes=({0: torch.export.Dim("n", min=1, max=MAX_BATCH)},),
        )
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(root / file), inductor_configs=OPTIONS
        )
    package = Package(file=file, sha256=sha256_file(root / file), target=target_here())
    return graph.model_copy(update={"package": package})
