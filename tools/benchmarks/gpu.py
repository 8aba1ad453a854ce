"""Measures large networks on one GPU: `make bench-gpu`.

In this order: the machine; decoding; then for each network its import, which measures it without
a server for each batch size, this project over HTTP, its runner without HTTP, and other servers.
Each result is stored at once.
"""

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import WEIGHTS_NAME
from image_classifier.inference.engine import Batch
from image_classifier.inference.machine import first_gpu, usable_cores
from preprocessing import DecodeLimits, PreprocessingSpec, SpecPreprocessing, to_input
from tools import serving
from tools.benchmarks.images import WEB_MIX, mix_files
from tools.benchmarks.importing import import_model, seeded_sources
from tools.benchmarks.measure import served
from tools.benchmarks.presets import Case
from tools.benchmarks.seeded import NEAR_TIE, SPEC, near_best, save_seeded_weights
from tools.benchmarks.servers import BUILD, OWN, SERVERS, Server
from tools.benchmarks.session import this_machine
from tools.benchmarks.workload import Workload
from tools.load import Run
from tools.serving import ADDRESS, ROOT, ask, http_request

NETWORKS = ("vit_l_16", "resnet50", "convnext_large")
GOLDEN = 6
"""Number of golden images; the reference runs on one processor core."""
CONNECTIONS = 96
WARMUP_S = 3.0
"""At all connections, so that the batches of the measurement are warm."""
RATES_PER_S = (50, 1_000)
HOP_IMAGES = 8
"""Images per call to the runner in the measurement without HTTP."""
PEERS = ("FastAPI", "LitServe", "Mosec")
PREPROCESSING = SpecPreprocessing(PreprocessingSpec.model_validate(SPEC))
STORE = BUILD / "bentoml"
PYTHONPATH = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
"""Of the servers: packages may be in a directory of their own."""


class Results:
    """The file of results, rewritten after every step.

    Args:
        seconds: Steps that would begin later than this from now are skipped.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._begun = time.perf_counter()
        self._seconds = seconds
        self._found: dict[str, Any] = {}

    def step(self, name: str, measure: Callable[..., object], *arguments: object) -> bool:
        """Store the result of `measure`, or its error, with its duration; return its success."""
        done = False
        begun = time.perf_counter()
        if begun - self._begun > self._seconds:
            found: object = "left out: the time was up"
        else:
            # One network that fails, perhaps out of memory, must not hide the others.
            try:
                found = measure(*arguments)
                done = True
            except Exception as error:
                found = f"failed: {type(error).__name__}: {error}"
        self._found[name] = {"seconds": round(time.perf_counter() - begun, 1), "found": found}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._found, indent=1) + "\n")
        print(f"{name}: {json.dumps(found)}", flush=True)
        return done


def nvidia_smi(query: str) -> str:
    """Return properties of the GPU as reported by its driver."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def machine() -> dict[str, object]:
    """Return the hardware."""
    gpu = nvidia_smi(
        "name,memory.total,driver_version,clocks.max.sm,pcie.link.gen.max,mig.mode.current"
    )
    return {"gpu": gpu, "torch": version("torch"), **this_machine().model_dump(mode="json")}


def decode_for(files: Sequence[str], seconds: float) -> int:
    """Preprocess the files in turn for a time; return the number of images."""
    images = [Path(file).read_bytes() for file in files]
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        to_input(images[count % len(images)], PREPROCESSING, DecodeLimits())
        count += 1
    return count


def decoding(files: Sequence[str], seconds: float) -> dict[str, float]:
    """Return images per second of preprocessing, in one process and in one per core."""
    context = multiprocessing.get_context("spawn")  # forks would copy the locks of other threads
    rates = {}
    for processes in sorted({1, usable_cores()}):
        with ProcessPoolExecutor(processes, context) as pool:
            list(pool.map(decode_for, [files] * processes, [0.1] * processes))  # started
            counts = pool.map(decode_for, [files] * processes, [seconds] * processes)
            rates[f"{processes} processes"] = round(sum(counts) / seconds, 1)
    return rates


def seeded(architecture: str, inputs: Batch, folder: Path) -> Path:
    """Return the file with the weights of a network; write it if it is missing."""
    path = folder / WEIGHTS_NAME
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_seeded_weights(architecture, inputs, path)
    return path


class Network:
    """A network to serve.

    Args:
        architecture: A function of `torchvision.models`.
        files: Images.
        inputs: The preprocessed files, (n, H, W, C).
    """

    def __init__(self, architecture: str, files: Sequence[str], inputs: Batch) -> None:
        self.architecture = architecture
        self._files = files
        self._inputs = inputs
        self._folder = BUILD / "gpu" / architecture
        self._lock = self._folder / "model.lock"
        self._workload = self._folder / "workload.json"

    def import_for_gpu(self) -> object:
        """Import the network in bf16 for this GPU, with its workload; return its record."""
        weights = seeded(self.architecture, self._inputs, self._folder)
        golden = self._folder / "golden"
        golden.mkdir(exist_ok=True)
        for file in self._files[:GOLDEN]:
            (golden / Path(file).name).write_bytes(Path(file).read_bytes())
        options = {
            **seeded_sources(self.architecture, weights, self._folder),
            "--name": self.architecture.replace("_", "-"),
            "--golden": golden,
            "--device": "cuda",
            "--precision": "bf16",
            "--gate-agreement": 0.6,  # one near tie among few images is a large share
        }
        artifact = open_artifact(import_model(STORE, self._lock, options))
        logits, _ = artifact.reference()
        workload = Workload(
            model=self.architecture,
            engine=str(weights),
            network=self.architecture,
            precision_hint="bf16",
            preprocessing=str(self._folder / "preprocessing.json"),
            threads=usable_cores(),
            store=str(STORE),
            lock=str(self._lock),
            files=tuple(str(artifact.path_of(entry.file)) for entry in artifact.manifest.golden),
            accepted=tuple(near_best(row, NEAR_TIE["bf16"]) for row in logits),
        )
        self._workload.write_text(workload.model_dump_json())
        return artifact.record.model_dump(mode="json", exclude={"machine"})

    def over_http(
        self, server: Server, settings: Mapping[str, str], seconds: float
    ) -> dict[str, object]:
        """Measure a server with this Python's packages; peers run the network in torch.

        Args:
            settings: CLASSIFIER_* settings of this project.
        """
        server = dataclasses.replace(server, python=sys.executable)
        case, variables = Case(model=self.architecture), {"PYTHONPATH": PYTHONPATH, **settings}
        with served(server, self._workload, case, variables) as client:
            client.saturate(WARMUP_S, CONNECTIONS)
            runs: list[object] = []
            for rate_per_s in (None, *RATES_PER_S):
                if rate_per_s is None:
                    run = client.saturate(seconds, CONNECTIONS)
                else:
                    run = client.offer(rate_per_s, seconds)
                runs += [_with_cost(run), stage_sums(client.server.port)]
            return {
                "ready_s": client.server.ready_s,
                "memory_mb": client.server.memory_mb(),
                "gpu_memory": nvidia_smi("memory.used"),
                "runs": runs,
            }

    def hop(self, processes: int, seconds: float) -> dict[str, float]:
        """Measure processes that only call the runner, without HTTP: see `hop.Hop`."""
        with tempfile.TemporaryDirectory() as folder:
            load = {
                "processes": processes,
                "images": HOP_IMAGES,
                "seconds": seconds,
                "folder": folder,
            }
            variables = {
                "PYTHONPATH": PYTHONPATH,
                "BENTOML_HOME": str(STORE),
                "CLASSIFIER_LOCK": str(self._lock),
                "HOP": json.dumps(load),
            }
            live = http_request("/livez", {}, b"", method="GET")
            counts: list[Path] = []
            with serving.running(
                "hop",
                [sys.executable, "-m", "bentoml", "serve", "tools.benchmarks.hop:Hop", *ADDRESS],
                environment=serving.server_environment(variables),
                log_path=BUILD / "logs" / "hop.log",
                probe=serving.expects_ok(live),
            ):
                end = time.perf_counter() + seconds + 30
                while len(counts) < processes and time.perf_counter() < end:
                    time.sleep(0.1)
                    counts = list(Path(folder).glob("*.json"))
                read = [json.loads(path.read_bytes()) for path in counts] or [[0, 0]]
            images_per_s, wrong = np.sum(read, axis=0)
        return {
            "processes": len(counts),
            "images_per_call": HOP_IMAGES,
            "images_per_s": round(float(images_per_s), 1),
            "wrong": int(wrong),
        }


def stage_sums(port: int) -> list[str]:
    """Return the sums and counts of stages and batch sizes in /metrics; none for a peer."""
    status, text = ask(port, http_request("/metrics", {}, b"", method="GET"))
    lines = text.decode().splitlines() if status == HTTPStatus.OK else []
    wanted = re.compile(r"classifier_(stage_seconds|batch_size)_(sum|count)")
    return [line for line in lines if wanted.match(line)]


def _with_cost(run: Run) -> str:
    server_ms, client_ms = (
        1e3 * cpu_s / max(1, run.sent) for cpu_s in (run.server_cpu_s, run.client_cpu_s)
    )
    return (
        f"{run.in_words()}; ms of processor a request: server {server_ms:.2f}, load generator "
        f"{client_ms:.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmarks.gpu", description=__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, help="of torchvision")
    parser.add_argument("--engines", nargs="*", default=[""], help="certified ones; '': the chosen")
    parser.add_argument("--workers", nargs="*", type=int, default=[0], help="0: the default")
    parser.add_argument("--peers", nargs="*", default=PEERS, help="other servers")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    parser.add_argument("--limit", type=float, default=400, help="seconds after which none starts")
    parser.add_argument("--results", type=Path, default=BUILD / "gpu.json")
    options = parser.parse_args(arguments)
    if first_gpu(os.environ) is None:
        print("bench-gpu: no GPU is visible; run it on a machine with one", file=sys.stderr)
        return 1
    results, seconds = Results(options.results, options.limit), options.seconds
    results.step("machine", machine)
    files = mix_files(WEB_MIX, BUILD / "images")
    results.step("decoding", decoding, files, 2 * seconds)
    inputs = np.stack(
        [to_input(Path(file).read_bytes(), PREPROCESSING, DecodeLimits()) for file in files]
    )
    for name in options.networks:
        network = Network(name, files, inputs)
        if not results.step(f"{name} imported", network.import_for_gpu):
            continue
        for engine, workers in itertools.product(options.engines, options.workers):
            step = f"{name} over HTTP, {engine or 'chosen'} engine, {workers or 'default'} workers"
            chosen = {"CLASSIFIER_ENGINE": engine, "CLASSIFIER_WORKERS": workers}
            settings = {setting: str(value) for setting, value in chosen.items() if value}
            results.step(step, network.over_http, OWN, settings, 8 * seconds)
        step = f"{name} without HTTP, {HOP_IMAGES} images a call"
        results.step(step, network.hop, usable_cores() // 2, 4 * seconds)
        for server in SERVERS:
            if server.name in options.peers:
                step = f"{name} over HTTP, {server.name}"
                results.step(step, network.over_http, server, {}, 8 * seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
