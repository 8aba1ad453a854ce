"""What one GPU does with large networks: `make bench-gpu`.

In this order: the machine; decoding alone; the networks alone, in every precision; then networks
imported and served over HTTP, beside the hop alone and other servers. What a step found is stored
as soon as it is known.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import WEIGHTS_NAME, Precision
from image_classifier.artifact.manifest import InputSpec
from image_classifier.artifact.record import Plan
from image_classifier.inference.engine import Batch, Engine
from image_classifier.inference.engines.torch import Program, gpu_name
from image_classifier.inference.machine import usable_cores
from image_classifier.inference.plan import GPU_STREAMS
from importer.export import export_program
from importer.pixels_to_logits import PixelsToLogits
from preprocessing import DecodeLimits, PreprocessingSpec, SpecPreprocessing, to_input
from tools import serving
from tools.benchmarks.images import WEB_MIX, mix_files
from tools.benchmarks.importing import import_model, seeded_sources
from tools.benchmarks.models import BUILD
from tools.benchmarks.seeded import NEAR_TIE, SPEC, near_best, save_seeded_weights
from tools.benchmarks.servers import OWN, SERVERS, Server
from tools.benchmarks.session import this_machine
from tools.benchmarks.workload import WORKLOAD_VARIABLE, Workload
from tools.load import Target, closed_run, open_run
from tools.serving import ADDRESS, ROOT, ask, http_request

NETWORKS = ("resnet50", "convnext_large", "vit_l_16")
BATCH_SIZES = (1, 8, 32, 64)
GOLDEN = 6
"""Images of the import: the reference runs on one core of the processor."""
CONNECTIONS = 96
RATES_PER_S = (50, 1_000)
HOP_IMAGES = 8
"""Of each call to the runner, where nothing is decoded."""
PEERS = ("FastAPI", "LitServe", "Mosec")
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp32")
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

    def step(self, name: str, take: Callable[..., object], *arguments: object) -> bool:
        """Take a step, and store what it returns, or why it failed, with its duration.

        Returns:
            Whether it returned something.
        """
        done = False
        begun = time.perf_counter()
        if begun - self._begun > self._seconds:
            found: object = "left out: the time was up"
        else:
            # One network that fails, perhaps for want of memory, must not hide the others.
            try:
                found = take(*arguments)
                done = True
            except Exception as error:
                found = f"failed: {type(error).__name__}: {error}"
        self._found[name] = {"seconds": round(time.perf_counter() - begun, 1), "found": found}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._found, indent=1) + "\n")
        print(f"{name}: {json.dumps(found)}", flush=True)
        return done


def nvidia_smi(query: str) -> str:
    """Return what the driver says of the GPU."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def machine() -> dict[str, object]:
    """Return what there is to measure on."""
    gpu = nvidia_smi(
        "name,memory.total,driver_version,clocks.max.sm,pcie.link.gen.max,mig.mode.current"
    )
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


def network_alone(architecture: str, inputs: Batch, seconds: float) -> dict[str, object]:
    """Return images per second of a network, as the service runs it, with copies both ways."""
    import torchvision
    from safetensors.torch import load_file

    folder = BUILD / "gpu" / architecture
    weights = seeded(architecture, inputs, folder)
    network = getattr(torchvision.models, architecture)(weights=None).eval()
    network.load_state_dict(load_file(weights))
    spec = InputSpec.of(PREPROCESSING)
    export_program(PixelsToLogits(network, spec).eval(), inputs[:2], folder / "network.pt2")
    del network
    rates: list[object] = []
    for precision in PRECISIONS:
        try:
            rates += _rates(folder, precision, inputs, seconds)
        except RuntimeError as error:
            rates.append(f"{precision}: {error}")
    return {"weights_mb": weights.stat().st_size >> 20, "rates": rates}


def _rates(
    folder: Path, precision: Precision, inputs: Batch, seconds: float
) -> list[dict[str, object]]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    plan = Plan(
        engine="torch", streams=GPU_STREAMS, threads=1, batch_sizes=BATCH_SIZES, service_time_ms=1
    )
    engine = Program(folder / "network.pt2", folder / WEIGHTS_NAME, precision).load(plan)
    rates: list[dict[str, object]] = []
    for size in BATCH_SIZES:
        batch = np.resize(inputs, (size, *inputs.shape[1:]))
        rate = size * _batches_per_s(engine, batch, seconds)
        rates.append({"precision": precision, "batch": size, "images_per_s": round(rate, 1)})
    return [*rates, {"peak_mb": torch.cuda.max_memory_allocated() >> 20}]


def _batches_per_s(engine: Engine, batch: Batch, seconds: float) -> float:
    begun = time.perf_counter()

    def run(_: int) -> int:
        count = 0
        while time.perf_counter() < begun + seconds:
            engine.run(batch)
            count += 1
        return count

    with ThreadPoolExecutor(GPU_STREAMS) as pool:
        batches = sum(pool.map(run, range(GPU_STREAMS)))
    return batches / (time.perf_counter() - begun)


@contextlib.contextmanager
def running(
    name: str, arguments: Sequence[str], variables: Mapping[str, str], request: bytes
) -> Iterator[serving.RunningServer]:
    """Start a server of this Python and wait for its first answer."""
    # Packages may have been carried to the machine in a folder of their own.
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with serving.running(
        name,
        [sys.executable, *arguments],
        environment=serving.server_environment({**variables, "PYTHONPATH": path}),
        log_path=BUILD / f"gpu-{name.replace(' ', '-')}.log",
        probe=lambda port: "" if ask(port, request)[0] == 200 else "not ready",
        ready_within_s=90,
    ) as server:
        yield server


class Network:
    """A network to serve, and what counts as right: the reference's answers.

    Args:
        architecture: A function of `torchvision.models`.
        files: Images.
        inputs: Made of the files, (n, H, W, C).
    """

    def __init__(self, architecture: str, files: Sequence[str], inputs: Batch) -> None:
        self.architecture = architecture
        self._files = files
        self._inputs = inputs
        self._folder = BUILD / "gpu" / architecture
        self._variables = {
            "BENTOML_HOME": str(BUILD / "bentoml"),
            "CLASSIFIER_LOCK": str(self._folder / "model.lock"),
        }

    def bring_in(self) -> object:
        """Import it in bf16 for this GPU, by the command line; return the record."""
        self._weights = seeded(self.architecture, self._inputs, self._folder)
        golden = self._folder / "golden"
        golden.mkdir(exist_ok=True)
        for file in self._files[:GOLDEN]:
            (golden / Path(file).name).write_bytes(Path(file).read_bytes())
        options = {
            **seeded_sources(self.architecture, self._weights, self._folder),
            "--name": self.architecture.replace("_", "-"),
            "--golden": golden,
            "--device": "cuda",
            "--precision": "bf16",
            "--gate-agreement": 0.6,  # of few images, one between two classes is much
        }
        lock = self._folder / "model.lock"
        artifact = open_artifact(import_model(BUILD / "bentoml", lock, options))
        self._data = artifact.golden_files()
        near_tie, logits = NEAR_TIE["bf16"], artifact.reference()[0]
        self._accepted = tuple(frozenset(near_best(row, near_tie)) for row in logits)
        record = artifact.record
        return record and record.model_dump(mode="json", exclude={"machine"})

    def service(self, workers: int, seconds: float) -> dict[str, object]:
        """Return what the service does over HTTP, and where its time went.

        Args:
            workers: API processes; 0 takes the default.
        """
        variables = {"CLASSIFIER_WORKERS": str(workers)} if workers else {}
        return self._measured(OWN, self._variables | variables, seconds)

    def peer(self, server: Server, seconds: float) -> dict[str, object]:
        """Return what another server does over HTTP, with the network as torch runs it."""
        workload = Workload(
            model=self.architecture,
            engine=str(self._weights),
            network=self.architecture,
            precision_hint="bf16",
            preprocessing=str(self._folder / "preprocessing.json"),
            threads=usable_cores(),
            store="",
            lock="",
            files=(),
        )
        path = self._folder / "workload.json"
        path.write_text(workload.model_dump_json())
        return self._measured(server, {WORKLOAD_VARIABLE: str(path)}, seconds)

    def _measured(
        self, server: Server, variables: Mapping[str, str], seconds: float
    ) -> dict[str, object]:
        requests = tuple(map(server.request, self._data))
        with running(server.name, server.arguments, variables, requests[0]) as started:
            target = Target(
                port=started.port,
                requests=requests,
                accepted=self._accepted,
                read_class=server.read_class,
            )
            closed_run(target, connections=CONNECTIONS, duration_s=3)
            runs = []
            for rate_per_s in (None, *RATES_PER_S):
                before, sums = cpu_seconds(started), metric_sums(started)
                run = (
                    closed_run(target, connections=CONNECTIONS, duration_s=seconds)
                    if rate_per_s is None
                    else open_run(
                        target, rate_per_s=rate_per_s, duration_s=seconds, seed=rate_per_s
                    )
                )
                spent = {name: cpu - before[name] for name, cpu in cpu_seconds(started).items()}
                spent["load generator"] = run.client_cpu_s
                each = ", ".join(
                    f"{name} {cpu * 1e3 / max(1, run.sent):.2f}" for name, cpu in spent.items()
                )
                gpu = nvidia_smi("utilization.gpu")  # part of the last second in which it was busy
                means = mean_stages(sums, metric_sums(started))
                runs.append(
                    f"{run.in_words()}; ms of processor a request: {each}; {means}GPU {gpu}"
                )
            return {"ready_s": started.ready_s, "memory_mb": started.memory_mb(), "runs": runs}

    def hop(self, processes: int, seconds: float) -> dict[str, float]:
        """Return what processes that only call the runner are answered: see `hop.Hop`."""
        with tempfile.TemporaryDirectory() as folder:
            asked = {"processes": processes, "images": HOP_IMAGES, "seconds": seconds}
            variables = self._variables | {"HOP": json.dumps({**asked, "folder": folder})}
            arguments = ("-m", "bentoml", "serve", "tools.benchmarks.hop:Hop", *ADDRESS)
            ready = http_request("/livez", {}, b"", method="GET")
            counts: list[Path] = []
            with running("hop", arguments, variables, ready):
                end = time.perf_counter() + seconds + 30
                while len(counts) < processes and time.perf_counter() < end:
                    time.sleep(0.1)
                    counts = list(Path(folder).glob("*.json"))
                read = [json.loads(it.read_bytes()) for it in counts] or [[0, 0]]
            images_per_s, wrong = np.sum(read, axis=0)
        return {
            "processes": len(counts),
            "images_per_call": HOP_IMAGES,
            "images_per_s": round(float(images_per_s), 1),
            "wrong": int(wrong),
        }


def cpu_seconds(server: serving.RunningServer) -> dict[str, float]:
    """Return the processor time that the server used so far, and its `ModelRunner` thereof."""
    used = {"server": server.cpu_s(), "runner": 0.0}
    for process in server.process.children(recursive=True):
        if "ModelRunner" in process.cmdline():
            times = process.cpu_times()
            used["runner"] += times.user + times.system
    return used


STAGE = re.compile(
    r'^classifier_(?:stage_seconds|batch_size)_(sum|count)(?:{stage="(\w+)"})? (\S+)'
)


def metric_sums(server: serving.RunningServer) -> dict[tuple[str, str], float]:
    """Return what /metrics adds up of stages and batch sizes, by stage; empty of a peer."""
    status, text, *_ = ask(server.port, http_request("/metrics", {}, b"", method="GET"))
    lines = text.decode().splitlines() if status == 200 else []
    found = filter(None, map(STAGE.match, lines))
    return {(one[2] or "batch", one[1]): float(one[3]) for one in found}


def mean_stages(
    before: Mapping[tuple[str, str], float], after: Mapping[tuple[str, str], float]
) -> str:
    """Return the mean milliseconds of each stage and the mean batch size between two moments."""
    rise = {key: value - before[key] for key, value in after.items() if key in before}
    means = {
        stage: rise[stage, "sum"] / max(1, rise[stage, "count"]) * (1 if stage == "batch" else 1e3)
        for stage, kind in rise
        if kind == "sum"
    }
    return "".join(f"{stage} {mean:.1f}, " for stage, mean in means.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmarks.gpu", description=__doc__)
    parser.add_argument("--decoding", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, help="of torchvision, alone")
    parser.add_argument("--serve", nargs="*", default=["vit_l_16"], help="networks to serve")
    parser.add_argument("--workers", nargs="*", type=int, default=[0], help="0: the default")
    parser.add_argument("--peers", nargs="*", default=PEERS, help="other servers")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    parser.add_argument("--limit", type=float, default=400, help="seconds after which none begins")
    parser.add_argument("--results", type=Path, default=BUILD / "gpu.json")
    given = parser.parse_args(arguments)
    if gpu_name() is None:
        print("bench-gpu: torch finds no GPU; run it on a machine with one", file=sys.stderr)
        return 1
    results, second = Results(given.results, given.limit), given.seconds
    results.step("machine", machine)
    files = mix_files(WEB_MIX, BUILD / "images")
    if given.decoding:
        results.step("decoding", decoding, files, 2 * second)
    inputs = np.stack(
        [to_input(Path(file).read_bytes(), PREPROCESSING, DecodeLimits()) for file in files]
    )
    for name in given.networks:
        results.step(f"{name} alone", network_alone, name, inputs, second)
    for name in given.serve:
        network = Network(name, files, inputs)
        if not results.step(f"{name} imported", network.bring_in):
            continue
        for workers in given.workers:
            step = f"{name} over HTTP, {workers or 'default'} workers"
            results.step(step, network.service, workers, 8 * second)
        step = f"{name} without HTTP, {HOP_IMAGES} images a call"
        results.step(step, network.hop, usable_cores() // 2, 4 * second)
        for server in SERVERS:
            if server.name in given.peers:
                results.step(f"{name} over HTTP, {server.name}", network.peer, server, 8 * second)
    return 0


if __name__ == "__main__":
    sys.exit(main())
