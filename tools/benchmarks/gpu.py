"""What one GPU does with large networks: `make bench-gpu`.

In this order: the machine; decoding alone; the networks alone, in every precision; then one network
imported and served over HTTP. What a step found is stored as soon as it is known.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.format import WEIGHTS_NAME
from image_classifier.artifact.manifest import InputSpec
from image_classifier.artifact.record import Plan
from image_classifier.inference.engine import Batch
from image_classifier.inference.engines.torch import Program, gpu_name
from image_classifier.inference.machine import usable_cores
from image_classifier.inference.plan import GPU_STREAMS
from importer.export import export_program
from importer.pixels_to_logits import PixelsToLogits
from preprocessing import DecodeLimits, PreprocessingSpec, SpecPreprocessing, to_input
from tools import serving
from tools.benchmarks.images import WEB_MIX, mix_files
from tools.benchmarks.importing import import_model, seeded_sources
from tools.benchmarks.seeded import NEAR_TIE, SPEC, near_best, save_seeded_weights
from tools.benchmarks.servers import best_prediction, raw_body
from tools.benchmarks.session import this_machine
from tools.load import Target, closed_run, open_run
from tools.serving import ROOT, ask, http_request

BUILD = ROOT / "build" / "benchmarks"
NETWORKS = ("resnet50", "convnext_large", "vit_l_16")
BATCH_SIZES = (1, 8, 32, 64)
GOLDEN = 12
"""Images of the import: the reference runs on one core of the processor."""
CONNECTIONS = 96
RATES_PER_S = (50, 1_000)
PREPROCESSING = SpecPreprocessing(PreprocessingSpec.model_validate(SPEC))


class Results:
    """The file of results, written anew after every step.

    Args:
        path: Where it is; what it holds is replaced.
        seconds: From now on; a step that would begin later is left out, and that is noted.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._begun = time.perf_counter()
        self._seconds = seconds
        self._found: dict[str, Any] = {}

    def step(self, name: str, take: Callable[[], object]) -> None:
        """Take a step, and store what it returns, or why it failed, with its duration."""
        begun = time.perf_counter()
        if begun - self._begun > self._seconds:
            found: object = "left out: the time was up"
        else:
            # One network that fails, perhaps for want of memory, must not hide the others.
            try:
                found = take()
            except Exception as error:
                found = f"failed: {type(error).__name__}: {error}"
        self._found[name] = {"seconds": round(time.perf_counter() - begun, 1), "found": found}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._found, indent=1) + "\n")
        print(f"{name}: {json.dumps(found)}", flush=True)


def machine() -> dict[str, object]:
    """Return what there is to measure on."""
    query = "name,memory.total,driver_version,clocks.max.sm,pcie.link.gen.max,mig.mode.current"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    gpu = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return {"gpu": gpu, "torch": torch.__version__, **this_machine().model_dump(mode="json")}


def decode_for(files: Sequence[str], seconds: float) -> int:
    """Make inputs of the files, in turn, for a time; return how many."""
    images = [Path(file).read_bytes() for file in files]
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        to_input(images[count % len(images)], PREPROCESSING, DecodeLimits())
        count += 1
    return count


def decoding(files: Sequence[str], seconds: float) -> dict[str, float]:
    """Return images per second of preprocessing, in one process and in one a core."""
    context = multiprocessing.get_context("spawn")  # a fork would share the GPU's driver
    rates = {}
    for processes in sorted({1, usable_cores()}):
        with ProcessPoolExecutor(processes, context) as pool:
            list(pool.map(decode_for, [files] * processes, [0.1] * processes))  # started
            counts = pool.map(decode_for, [files] * processes, [seconds] * processes)
            rates[f"{processes} processes"] = round(sum(counts) / seconds, 1)
    return rates


def seeded(architecture: str, inputs: Batch, folder: Path) -> Path:
    """Return the weights of a network, made where they are missing."""
    path = folder / WEIGHTS_NAME
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_seeded_weights(architecture, inputs, path)
    return path


def network_alone(
    architecture: str, inputs: Batch, folder: Path, seconds: float
) -> dict[str, object]:
    """Return images per second of a network, as the service runs it, with copies both ways."""
    import torchvision
    from safetensors.torch import load_file

    weights = seeded(architecture, inputs, folder)
    network = getattr(torchvision.models, architecture)(weights=None).eval()
    network.load_state_dict(load_file(weights))
    spec = InputSpec.of(PREPROCESSING)
    export_program(PixelsToLogits(network, spec).eval(), inputs[:2], folder / "network.pt2")
    del network
    rates = []
    for precision in ("bf16", "fp16", "fp32"):
        torch.cuda.reset_peak_memory_stats()
        program = Program(folder / "network.pt2", weights, precision)
        for size in BATCH_SIZES:
            batch = np.resize(inputs, (size, *inputs.shape[1:]))
            rates.append(
                {
                    "precision": precision,
                    "batch": size,
                    "images_per_s": round(size * _batches_per_s(program, batch, seconds), 1),
                    "peak_mb": torch.cuda.max_memory_allocated() >> 20,
                }
            )
        del program
        torch.cuda.empty_cache()
    return {"weights_mb": weights.stat().st_size >> 20, "rates": rates}


def _batches_per_s(program: Program, batch: Batch, seconds: float) -> float:
    plan = Plan(
        engine="torch",
        streams=GPU_STREAMS,
        threads=1,
        batch_sizes=(len(batch),),
        service_time_ms=1,
    )
    engine = program.load(plan)
    end = time.perf_counter() + seconds

    def run(_: int) -> int:
        count = 0
        while time.perf_counter() < end:
            engine.run(batch)
            count += 1
        return count

    with ThreadPoolExecutor(GPU_STREAMS) as pool:
        return sum(pool.map(run, range(GPU_STREAMS))) / seconds


def imported(architecture: str, files: Sequence[str], weights: Path, folder: Path) -> Artifact:
    """Import a network in bf16 for this GPU, by the command line."""
    golden = folder / "golden"
    golden.mkdir(exist_ok=True)
    for file in files[:GOLDEN]:
        (golden / Path(file).name).write_bytes(Path(file).read_bytes())
    options = {
        **seeded_sources(architecture, weights, folder),
        "--name": architecture.replace("_", "-"),
        "--golden": golden,
        "--device": "cuda",
        "--precision": "bf16",
        "--gate-agreement": 0.8,  # of 12 images, one between two classes is 8 %
    }
    return open_artifact(import_model(BUILD / "bentoml", folder / "model.lock", options))


@contextlib.contextmanager
def served(artifact: Artifact, lock: Path) -> Iterator[tuple[serving.RunningServer, Target]]:
    """Start the service; what counts as right is what the reference answers on the processor."""
    requests = tuple(
        http_request("/classify", *raw_body(sample.data)) for sample in artifact.golden_samples()
    )
    near_tie = NEAR_TIE["bf16"]
    accepted = tuple(frozenset(near_best(row, near_tie)) for row in artifact.reference()[0])
    port = serving.free_port()
    variables = {
        "BENTOML_HOME": str(BUILD / "bentoml"),
        "CLASSIFIER_LOCK": str(lock),
        # Packages may have been carried to the machine in a folder of their own.
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    with serving.running(
        "the service",
        [sys.executable, *serving.PRODUCT_COMMAND, "--port", str(port)],
        port=port,
        environment=serving.server_environment(variables),
        log_path=BUILD / "gpu.log",
        probe=lambda port: "" if ask(port, requests[0])[0] == 200 else "not ready",
        ready_within_s=240,
    ) as server:
        target = Target(
            port=port,
            requests=requests,
            accepted=accepted,
            read_class=best_prediction,
        )
        yield server, target


def service(artifact: Artifact, lock: Path, seconds: float) -> dict[str, object]:
    """Return what the service does over HTTP, and where its time went."""
    with served(artifact, lock) as (server, target):
        closed_run(target, connections=CONNECTIONS, duration_s=3)
        runs = [
            closed_run(target, connections=CONNECTIONS, duration_s=seconds),
            *(
                open_run(target, rate_per_s=rate, duration_s=seconds, seed=rate)
                for rate in RATES_PER_S
            ),
        ]
        metrics = ask(target.port, http_request("/metrics", {}, b"", method="GET"))[1].decode()
        card = ask(target.port, http_request("/model", {}, b"", method="GET"))[1]
        return {
            "engine": json.loads(card)["engine"],
            "ready_s": server.ready_s,
            "memory_mb": server.memory_mb(),
            "runs": [run.in_words() for run in runs],
            "stages": [line for line in metrics.splitlines() if "stage" in line and "_sum" in line],
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmarks.gpu", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="of torchvision")
    parser.add_argument("--serve", default="vit_l_16", help="the network that is served; or none")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    parser.add_argument("--limit", type=float, default=400, help="seconds after which none begins")
    parser.add_argument("--results", type=Path, default=BUILD / "gpu.json")
    given = parser.parse_args(arguments)
    if gpu_name() is None:
        print("bench-gpu: torch finds no GPU; run it on a machine with one", file=sys.stderr)
        return 1
    results = Results(given.results, given.limit)
    results.step("machine", machine)
    files = mix_files(WEB_MIX, BUILD / "images")
    results.step("decoding", lambda: decoding(files, 2 * given.seconds))
    inputs = np.stack(
        [to_input(Path(file).read_bytes(), PREPROCESSING, DecodeLimits()) for file in files]
    )
    for name in given.networks:
        alone = functools.partial(network_alone, name, inputs, BUILD / "gpu" / name, given.seconds)
        results.step(f"{name} alone", alone)
    if given.serve == "none":
        return 0
    folder, artifacts = BUILD / "gpu" / given.serve, []

    def bring_in() -> object:
        weights = seeded(given.serve, inputs, folder)
        artifacts.append(imported(given.serve, files, weights, folder))
        record = artifacts[0].record
        return None if record is None else record.model_dump(mode="json", exclude={"machine"})

    results.step(f"{given.serve} imported", bring_in)
    if artifacts:
        results.step(
            f"{given.serve} over HTTP",
            lambda: service(artifacts[0], folder / "model.lock", 10 * given.seconds),
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
