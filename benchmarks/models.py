"""Prepares a workload: network, weights file, engine and the right answer for every image."""

import argparse
import contextlib
import dataclasses
import hashlib
import sys
import warnings
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.images import DIGITS_MIX, WEB_MIX, make_mixes
from benchmarks.networks import CLASSES, MEAN, STD, inputs_of, seeded_network
from benchmarks.peers.classifier import Classifier
from benchmarks.peers.steps import Array, to_input
from benchmarks.product import EXAMPLE, ImportRefused, imported
from benchmarks.running import ROOT
from benchmarks.workload import DIGITS, Workload, read_workload, write_workload

ARCHITECTURES = ("resnet50", "mobilenet_v3_large", "vit_b_16", DIGITS)
PRECISIONS = ("fp32", "bf16", "int8")
ONNX_OPSET = 18
DIGITS_SHAPE: dict[str, Any] = {
    "crop_size": 32,
    "resize_size": 32,
    "mean": (0.19,),
    "std": (0.31,),
    "classes": 10,
}
"""Of the example model; the peers' own preprocessing and the answers need them."""

NEAR_TIE = {"fp32": 1e-4, "bf16": 0.02, "int8": 0.02}
"""Classes within this part of the spread of an image's logits are all right: sums are taken in
another order at other batch sizes and stream counts."""


def prepare(architecture: str, precision: str, *, build: Path, photos: Path, threads: int) -> Path:
    """Make what is missing below `build` and write the workload file.

    Args:
        architecture: One of ARCHITECTURES.
        precision: One of PRECISIONS; bf16 is the fp32 engine with a precision hint.
        build: Directory outside version control.
        photos: See `images.make_mixes`.
        threads: Processor cores a server may use.

    Returns:
        Path of the workload file.
    """
    folder = build / "models" / architecture
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{precision}.json"
    made_from = sources_digest()
    with contextlib.suppress(FileNotFoundError, TypeError):  # absent, or of an earlier form
        if read_workload(path).made_from == made_from:
            return path
    workload = _unprepared(architecture, precision, build=build, threads=threads)
    workload = dataclasses.replace(workload, made_from=made_from)
    if architecture == DIGITS:
        mixes = {DIGITS_MIX: sorted(str(file) for file in (EXAMPLE / "samples").iterdir())}
        workload = dataclasses.replace(workload, **DIGITS_SHAPE, mixes=mixes)
        workload = imported(workload, precision, DIGITS_MIX, folder)
        float32 = workload
    else:
        mixes = make_mixes(photos, build / "images")
        workload, float32 = _seeded(dataclasses.replace(workload, mixes=mixes), precision, folder)
    workload = dataclasses.replace(
        workload,
        accepted=answers(workload, NEAR_TIE[precision]),
        accepted_float32=answers(float32, NEAR_TIE["fp32"]),
    )
    write_workload(workload, path)
    return path


def _unprepared(architecture: str, precision: str, *, build: Path, threads: int) -> Workload:
    folder = build / "models" / architecture
    return Workload(
        model=f"{architecture}-{precision}",
        architecture=architecture,
        weights=str(folder / "weights.safetensors"),
        engine=str(folder / ("int8.xml" if precision == "int8" else "fp32.xml")),
        made_from="",
        store=str(build / "bentoml"),
        lock="",
        precision_hint="bf16" if precision == "bf16" else "f32",
        resize_size=256,
        crop_size=224,
        mean=MEAN,
        std=STD,
        classes=CLASSES,
        threads=threads,
        mixes={},
        accepted={},
        accepted_float32={},
    )


def _seeded(workload: Workload, precision: str, folder: Path) -> tuple[Workload, Workload]:
    """A torchvision network with seeded weights: as everyone runs it, and its float32 form."""
    if not Path(workload.engine).exists():
        _export(workload, folder)
    float32 = dataclasses.replace(workload, engine=str(folder / "fp32.xml"), precision_hint="f32")
    try:
        workload = imported(workload, precision, WEB_MIX, folder)
    except ImportRefused as error:
        print(error, file=sys.stderr)  # the peers run the benchmark's own export of the network
    return workload, float32


def sources_digest() -> str:
    """Of all code an artifact depends on: the service refuses one of another preprocessing."""
    digest = hashlib.sha256()
    packages = ("image_classifier", "importer", "preprocessing")
    sources = [source for name in packages for source in sorted((ROOT / name).glob("*.py"))]
    for source in (*sources, ROOT / "benchmarks" / "networks.py", Path(__file__)):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def answers(workload: Workload, near_tie: float) -> dict[str, list[list[int]]]:
    """Mix name to the right classes of each file: what the engine says in-process, batch 1."""
    classifier = Classifier(workload, streams=1, threads=workload.threads)
    return {
        mix: [
            _best(
                classifier.forward(to_input(Path(file).read_bytes(), workload)[None])[0], near_tie
            )
            for file in files
        ]
        for mix, files in workload.mixes.items()
    }


def _best(logits: Array, near_tie: float) -> list[int]:
    least = logits.max() - near_tie * (logits.max() - logits.min())
    order = np.argsort(-logits)
    return [int(index) for index in order if logits[index] >= least]


def _export(workload: Workload, folder: Path) -> None:
    inputs = inputs_of(workload.mixes[WEB_MIX], workload)
    network = seeded_network(workload.architecture, inputs)
    inner = network.get_submodule("network")
    save_file({k: v.contiguous() for k, v in inner.state_dict().items()}, workload.weights)
    onnx_path = folder / "fp32.onnx"
    _export_onnx(network, inputs[:2], onnx_path)
    # Not `Core.read_model`: without the simplifications of `convert_model` NNCF does not find the
    # biases of this exporter's graph, corrects none, and int8 names another class for 40 of 48
    # images (openvino 2026.4.1, nncf 3.4, torch 2.14).
    graph = openvino.convert_model(onnx_path)
    openvino.save_model(graph, folder / "fp32.xml", compress_to_fp16=False)
    if workload.engine.endswith("int8.xml"):
        quantised = nncf.quantize(
            graph,
            nncf.Dataset(inputs.numpy(), lambda input_: input_[None]),
            subset_size=len(inputs),
            model_type=nncf.ModelType.TRANSFORMER if "vit" in workload.architecture else None,
        )
        openvino.save_model(quantised, workload.engine, compress_to_fp16=False)


def _export_onnx(network: nn.Module, example: torch.Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        # torch.onnx 2.14 warns about its own internals (deprecations in onnxscript).
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            path,
            dynamo=True,
            opset_version=ONNX_OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"batch": {0: torch.export.Dim("n", min=1, max=256)}},
            verbose=False,
        )


def main() -> None:
    """Command line; prints the path of the workload file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", choices=ARCHITECTURES, required=True)
    parser.add_argument("--precision", choices=PRECISIONS, required=True)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    print(
        prepare(
            given.architecture,
            given.precision,
            build=given.build,
            photos=given.photos,
            threads=given.threads,
        )
    )


if __name__ == "__main__":
    main()
