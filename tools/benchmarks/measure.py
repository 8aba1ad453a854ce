"""Measures servers under load and the limit of the machine, in rounds."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from image_classifier.settings import PREFIX
from tools import load, serving
from tools.benchmarks.limit import measured_limit
from tools.benchmarks.models import prepared
from tools.benchmarks.presets import CASES, Case, Preset
from tools.benchmarks.servers import BUILD, OWN, PRODUCT, Server
from tools.benchmarks.session import CaseResult, Visit, begin_session, write_session
from tools.benchmarks.workload import WORKLOAD_VARIABLE, read_workload
from tools.load import Run, Target
from tools.serving import NEVER_REFUSE

CONNECTIONS = 6
"""Requests in flight in a closed run: enough to saturate 2 to 4 cores."""
WARMUP_S = 1.5
"""Closed loop before anything is recorded."""
SETTLING_S = 300.0
"""Seconds after which a server's memory should no longer grow."""


def say(line: str) -> None:
    """Print progress with the time of day."""
    print(f"{datetime.now():%H:%M:%S} {line}", flush=True)


def measured_session(
    name: str, preset: Preset, cases: Sequence[str], servers: Sequence[Server], folder: Path
) -> Path:
    """Measure every server in every case; return the session's file.

    Rounds are the outer loop, so that drift of the machine affects all cases and servers alike. The
    file is written after every visit, so that an aborted session keeps its results.
    """
    session = begin_session(name)
    say(f"preparing {', '.join(cases)}; the first time takes minutes")
    workloads = {case: prepared(CASES[case].model, CASES[case].mix) for case in cases}
    results = {case: _empty_result(CASES[case]) for case in cases}
    written = write_session(session, folder)
    for round_ in range(preset.rounds):
        for name, path in workloads.items():
            say(f"{name}, round {round_ + 1} of {preset.rounds}")
            case, result, seconds = CASES[name], results[name], preset.slice_s
            paced = measured_limit(path, seconds=seconds, rate_per_s=case.low_rate_per_s)
            forward = measured_limit(path, seconds=seconds, forward=True)
            limits = [each.model_copy(update={"round": round_}) for each in (paced, forward)]
            result = result.model_copy(update={"limits": (*result.limits, *limits)})
            for server in servers:
                found = visit(server, path, case, preset, round_)
                result = result.model_copy(update={"visits": (*result.visits, found)})
                results[name] = result
                session = session.model_copy(update={"cases": tuple(results.values())})
                write_session(session, folder)
    return written


def _empty_result(case: Case) -> CaseResult:
    return CaseResult(
        model=case.model,
        images=case.mix,
        budget_ms=case.budget_ms,
        low_rate_per_s=case.low_rate_per_s,
    )


def visit(server: Server, workload_path: Path, case: Case, preset: Preset, round_: int) -> Visit:
    """Measure one server; a server that fails gives a visit with an error.

    This project is started twice: queueing all requests, as its peers do, for the saturated
    throughput, and with its defaults for the rest.
    """
    limit = measured_limit(workload_path, seconds=preset.slice_s)
    say(f"  {server.name}: limit {limit.images_per_s:.1f}/s")
    runs: list[Run] = []
    found: dict[str, Any] = {}
    try:
        patient = NEVER_REFUSE if server is OWN else {}
        with served(server, workload_path, case, patient, seed=round_) as client:
            runs.append(client.saturate(preset.slice_s))
            found = {"ready_s": client.server.ready_s, "memory_mb": client.server.memory_mb()}
            if server is not OWN:
                found |= _open_loops(client, case, preset, runs)
        if server is OWN:
            with served(server, workload_path, case, {}, seed=round_) as client:
                found |= _open_loops(client, case, preset, runs)
    except serving.ServerFailed as error:
        say(f"  {error}")
        found["error"] = str(error)
    return Visit(server=server.name, round=round_, limit=limit, runs=tuple(runs), **found)


def _open_loops(client: "Client", case: Case, preset: Preset, runs: list[Run]) -> dict[str, Any]:
    """Offer the low rate and parts of the saturated throughput, then find the highest rate.

    This project is overloaded last: for some seconds after an overload it still refuses requests.
    """
    saturated_per_s = runs[0].answered_per_s
    parts_per_s = [round(part * saturated_per_s, 1) for part in preset.load_parts]
    rates_per_s = (case.low_rate_per_s, *parts_per_s)
    runs.extend(client.offer(rate, preset.slice_s) for rate in rates_per_s if rate)

    def offer(rate_per_s: float, seconds: float) -> Run:
        runs.append(client.offer(rate_per_s, seconds, give_up_above_ms=case.budget_ms))
        return runs[-1]

    highest = load.search_highest_rate(
        offer,
        saturated_per_s=saturated_per_s,
        budget_ms=case.budget_ms,
        probes=preset.probes,
        probe_s=preset.slice_s,
    )
    if preset.overload and client.name == PRODUCT:
        runs.append(client.offer(round(preset.overload * saturated_per_s, 1), preset.slice_s))
    return {"highest": highest}


@dataclass(frozen=True, kw_only=True)
class Client:
    """A source of load on one running server, which also measures the server's processor time.

    Attributes:
        seed: Part of every seed; all servers of a round get the same arrivals at a rate.
    """

    name: str
    server: serving.RunningServer
    target: Target
    seed: int

    def saturate(self, seconds: float, connections: int = CONNECTIONS) -> Run:
        """Keep requests in flight until the time is up."""
        before_s = self.server.cpu_s()
        run = load.closed_run(
            self.target, connections=connections, duration_s=seconds, seed=self.seed
        )
        return self._with_cost(run, before_s)

    def offer(self, rate_per_s: float, seconds: float, give_up_above_ms: float = math.inf) -> Run:
        """Send Poisson arrivals."""
        before_s = self.server.cpu_s()
        run = load.open_run(
            self.target,
            rate_per_s=rate_per_s,
            duration_s=seconds,
            seed=round(rate_per_s * 1000) + self.seed,
            give_up_above_ms=give_up_above_ms,
        )
        return self._with_cost(run, before_s)

    def _with_cost(self, run: Run, before_s: float) -> Run:
        say(f"  {self.name}: {run.in_words()}")
        return dataclasses.replace(run, server_cpu_s=round(self.server.cpu_s() - before_s, 3))


@contextlib.contextmanager
def served(
    server: Server,
    workload_path: Path,
    case: Case,
    settings: Mapping[str, str],
    *,
    seed: int = 0,
    broken: float = 0,
    cores: str | None = None,
) -> Iterator[Client]:
    """Start a server, wait for its first right answer, warm it up.

    Args:
        settings: Further CLASSIFIER_* settings.
        broken: Share of broken files after the warmup.
        cores: Processor cores of the server, as taskset takes them; None means all.
    """
    workload = read_workload(workload_path)
    target = Target(
        port=0,
        requests=tuple(map(server.request, workload.images())),
        accepted=tuple(map(frozenset, workload.accepted)),
        read_class=server.read_class,
    )

    def probe(port: int) -> str:
        status, body = serving.ask(port, target.requests[0])
        right = status == 200 and target.is_right(0, body)
        return "" if right else f"status {status}: {body[:80]!r}"

    variables = {
        WORKLOAD_VARIABLE: str(workload_path),
        "BENTOML_HOME": workload.store,
        f"{PREFIX}LOCK": workload.lock,
        f"{PREFIX}BUDGET_MS": f"{case.budget_ms:g}",
        **settings,
    }
    with serving.running(
        server.name,
        [*(("taskset", "-c", cores) if cores else ()), server.python, *server.arguments],
        environment=serving.server_environment(variables),
        log_path=BUILD / "logs" / f"{server.name}-{workload.model}.log",
        probe=probe,
    ) as process:
        target = dataclasses.replace(target, port=process.port)
        load.closed_run(target, connections=4, duration_s=WARMUP_S)
        target = with_broken_files(target, server, broken)
        yield Client(name=server.name, server=process, target=target, seed=seed)


def with_broken_files(target: Target, server: Server, share: float) -> Target:
    """Return a target with a share of truncated and garbage files."""
    if not share:
        return target
    files = (b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40, b"\x89PNG\r\n\x1a\n", b"GIF89a" * 99)
    repeats = max(1, round((1 / share - 1) * len(files) / len(target.requests)))
    sound = target.requests * repeats
    return dataclasses.replace(
        target,
        requests=(*sound, *map(server.request, files)),
        accepted=(*(target.accepted * repeats), *(frozenset[int]() for _ in files)),
        broken=frozenset(range(len(sound), len(sound) + len(files))),
    )


def measured_load(
    case_name: str,
    folder: Path,
    *,
    servers: Sequence[Server],
    settings: Mapping[str, str],
    seconds: float,
    rate_per_s: float | None = None,
    times: float | None = None,
    connections: int = CONNECTIONS,
    broken: float = 0,
    cores: str | None = None,
) -> Path:
    """Apply one load to each server in turn; return the session's file.

    Args:
        settings: CLASSIFIER_* settings of this project.
        rate_per_s: Open loop at this rate; None is a closed loop without refusals.
        times: After the closed loop, open loop at this multiple of its throughput.
        broken: Share of broken files.
        cores: Processor cores of the servers, as taskset takes them; None means all.
    """
    case = CASES[case_name]
    kind = "broken" if broken else "hold" if rate_per_s else "overload" if times else "soak"
    session = begin_session(f"load-{case_name}-{kind}")
    path = prepared(case.model, case.mix)
    visits: list[Visit] = []
    for server in servers:
        own, patient = (settings, NEVER_REFUSE) if server is OWN else ({}, {})
        runs: list[Run] = []
        memory: list[float] = []
        offered_per_s = rate_per_s
        if rate_per_s is None:
            with served(server, path, case, {**own, **patient}, cores=cores) as client:
                runs.append(client.saturate(seconds, connections))
                offered_per_s = times and round(times * runs[0].answered_per_s, 1)
        if offered_per_s:
            with served(server, path, case, own, broken=broken, cores=cores) as client:
                # Memory grows before it settles, so a long run has two parts.
                first_s = min(seconds / 2, SETTLING_S)
                for part_s in (first_s, seconds - first_s):
                    runs.append(client.offer(offered_per_s, part_s))
                    memory.append(client.server.memory_mb())
        visits.append(
            Visit(
                server=server.name,
                settings={
                    **own,
                    **({"broken files": f"{broken:.0%}"} if broken else {}),
                    **({"cores of the server": cores} if cores else {}),
                },
                runs=tuple(runs),
                memory_mb=memory[-1] if memory else None,
                growth_mb=round(memory[-1] - memory[0], 1) if memory else None,
            )
        )
        result = _empty_result(case).model_copy(update={"visits": tuple(visits)})
        written = write_session(session.model_copy(update={"cases": (result,)}), folder)
    return written
