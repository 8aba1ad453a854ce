"""Measures the rate this machine sustains with the locked model: `make certify`.

Serves the model as `make serve` does, sends Poisson arrivals over HTTP and writes slo.json beside
the artifact's manifest. --rate proposes replicas of the measured machine.
"""

import argparse
import dataclasses
import json
import math
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.format import SLO_NAME, replacing
from image_classifier.artifact.record import Plan, SloCertificate
from image_classifier.artifact.store import locate, read_lock
from image_classifier.inference.engines.load import accelerator_of
from image_classifier.inference.machine import this_machine
from image_classifier.settings import PREFIX, Settings
from importer.source_commit import source_commit
from preprocessing.errors import OperatorError
from tools import serving
from tools.load import NO_CLASS, Run, Target, closed_run, open_run, search_highest_rate
from tools.serving import ROOT, ask, http_request

WARMUP_S = 2.0
CONNECTIONS = 6
"""In flight while the saturated throughput is measured: enough for 2 to 4 cores."""
PROBES = 5
NEAR_TIE_PART = 0.9
"""Classes with at least this part of the best probability are all right: the order of
floating-point sums depends on the batch."""

LOAD_PART = 0.7
"""Part of its highest rate that a replica should get: see "Sizing" in docs/deploy.md."""
SPARE = 1
"""Replicas that may be missing at any time, for example during rollouts."""


class CertifyError(OperatorError):
    """Nothing can be certified or proposed."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model to certify, its settings and images.

    Attributes:
        settings: CLASSIFIER_* variables, the lock included.
        images: Bytes of each file, by its name.
        images_name: "golden", or the name of their directory.
    """

    artifact: Artifact
    settings: dict[str, str]
    images: dict[str, bytes]
    images_name: str


def locked_subject(environ: Mapping[str, str], folder: Path | None) -> Subject:
    """Return the model that `make serve` serves, with its golden images or a directory's.

    Raises:
        OperatorError: A setting, the lock, the artifact or the directory is invalid.
    """
    lock = read_lock(ROOT / Settings.from_env(environ).lock)
    artifact = open_artifact(locate(lock.tag), lock.manifest_sha256, lock.evidence_sha256)
    if folder is None:
        names = (entry.file for entry in artifact.manifest.golden)
        images = dict(zip(names, artifact.golden_files(), strict=True))
    else:
        files = (path for path in sorted(folder.glob("*")) if path.is_file())
        images = {path.name: path.read_bytes() for path in files}
    if not images:
        raise CertifyError(f"{folder}: no files, expected images; choose another with --images")
    return Subject(
        artifact=artifact,
        settings={name: value for name, value in environ.items() if name.startswith(PREFIX)},
        images=images,
        images_name="golden" if folder is None else folder.name,
    )


def certify(subject: Subject, *, budget_ms: float, probe_s: float) -> SloCertificate:
    """Measure, write the certificate and return it.

    The server is started twice: without refusals for the saturated throughput, then with the
    operator's settings for the highest rate.

    Raises:
        CertifyError: The idle server refuses an image.
        ServerFailed: The server does not start.
    """
    octets = {"Content-Type": "application/octet-stream"}
    requests = tuple(http_request("/classify", octets, data) for data in subject.images.values())
    print(f"starting the service without refusals, to saturate it for {probe_s:g} s", flush=True)
    with _served(subject, requests, serving.NEVER_REFUSE) as server:
        target = _target(subject, requests, server.port)
        closed_run(target, connections=CONNECTIONS, duration_s=WARMUP_S)
        saturated = closed_run(target, connections=CONNECTIONS, duration_s=probe_s)
    print(
        f"saturated {saturated.answered_per_s:.1f}/s; starting the service as configured, "
        f"for {PROBES} rates of up to {3 * probe_s:g} s each",
        flush=True,
    )
    runs: list[Run] = []
    with _served(subject, requests, {}) as server:
        card = json.loads(ask(server.port, http_request("/model", {}, b"", method="GET"))[1])
        target = dataclasses.replace(target, port=server.port)
        closed_run(target, connections=CONNECTIONS, duration_s=WARMUP_S)

        def offer(rate_per_s: float, duration_s: float) -> Run:
            run = open_run(
                target,
                rate_per_s=rate_per_s,
                duration_s=duration_s,
                seed=round(1000 * rate_per_s),
                give_up_above_ms=budget_ms,
            )
            runs.append(run)
            print(
                f"{run.in_words()}: {'passed' if run.within(budget_ms) else 'failed'}", flush=True
            )
            return run

        found = search_highest_rate(
            offer,
            saturated_per_s=saturated.answered_per_s,
            budget_ms=budget_ms,
            probes=PROBES,
            probe_s=probe_s,
        )
    best = next((run for run in runs if run.rate_per_s == found.passed_per_s), None)
    kind = subject.artifact.evidence.engine(card["engine"]["name"]).kind
    certificate = SloCertificate(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=source_commit(ROOT, digits=10),
        machine=this_machine(accelerator_of(kind)),
        images=subject.images_name,
        image_count=len(subject.images),
        topology=card["topology"],
        settings={k: value for k, value in subject.settings.items() if k != f"{PREFIX}LOCK"},
        plan=plan_of(card["engine"]),
        budget_ms=budget_ms,
        highest_rate_per_s=found.passed_per_s,
        first_failed_rate_per_s=found.failed_per_s,
        p50_ms=best.percentile_ms(50) if best else None,
        p99_ms=best.percentile_ms(99) if best else None,
        saturated_per_s=round(saturated.answered_per_s, 1),
        ready_s=server.ready_s,
        rule=f"geometric bisection below the saturated throughput, {PROBES} probes; a rate passes "
        f"with p99 <= {budget_ms:g} ms, no failure and no wrong answer",
    )
    root = subject.artifact.root
    # Beside the artifact: an unexpected file in it would make a start fail.
    with replacing(root / SLO_NAME, beside=root) as temporary:
        temporary.write_bytes(certificate.to_json())
    return certificate


def _served(
    subject: Subject, requests: Sequence[bytes], settings: Mapping[str, str]
) -> AbstractContextManager[serving.RunningServer]:
    """Start the service; `settings` override those of the subject."""
    return serving.running(
        "the service",
        serving.PRODUCT_COMMAND,
        environment=serving.server_environment({**subject.settings, **settings}),
        log_path=ROOT / "build" / "certify.log",
        probe=serving.expects_ok(requests[0]),
    )


def _target(subject: Subject, requests: tuple[bytes, ...], port: int) -> Target:
    """Return requests and right answers: those of the idle server to single images."""
    accepted = []
    for name, request in zip(subject.images, requests, strict=True):
        status, body = ask(port, request)
        if status != 200:
            raise CertifyError(
                f"image {name} of {subject.images_name}: answered {status}: "
                f"{body[:160].decode(errors='replace')}; expected 200; remove the file"
            )
        accepted.append(near_best(json.loads(body)["predictions"]))
    return Target(port=port, requests=requests, accepted=tuple(accepted))


def near_best(predictions: Sequence[Mapping[str, Any]]) -> frozenset[int]:
    """Return the classes with nearly the best probability; for scores only the best class."""
    if not predictions:
        return frozenset({NO_CLASS})
    if "score" in predictions[0]:
        return frozenset({predictions[0]["class_id"]})
    least = NEAR_TIE_PART * predictions[0]["probability"]
    return frozenset(each["class_id"] for each in predictions if each["probability"] >= least)


def plan_of(engine: Mapping[str, Any]) -> Plan:
    """Return the plan in the `engine` part of `GET /model`."""
    fields = {name: engine[name] for name in Plan.model_fields if name != "engine"}
    return Plan.model_validate({"engine": engine["name"], **fields})


def summary(certificate: SloCertificate) -> str:
    """Return the result in one line."""
    p99 = "no rate passed" if certificate.p99_ms is None else f"p99 {certificate.p99_ms:.1f} ms"
    return (
        f"certified {certificate.measured_at}: {certificate.highest_rate_per_s:g}/s within "
        f"{certificate.budget_ms:g} ms ({p99}), "
        f"saturated {certificate.saturated_per_s:g}/s, started in {certificate.ready_s:.1f} s"
    )


def replicas_for(rate_per_s: float, highest_rate_per_s: float) -> int:
    """Return the number of replicas that stay within `LOAD_PART` of their rate with one missing."""
    # Rounded: 210 / (0.7 * 100) may be 3.0000000000000004.
    return math.ceil(round(rate_per_s / (LOAD_PART * highest_rate_per_s), 9)) + SPARE


def proposal(certificate: SloCertificate, rate_per_s: float) -> str:
    """Return how to run the model for a rate of the whole service, with the arithmetic.

    Raises:
        CertifyError: No rate was within the budget, so more replicas do not help.
    """
    machine, budget_ms = certificate.machine, certificate.budget_ms
    highest_per_s = certificate.highest_rate_per_s
    accelerator = f", {machine.accelerator}" if machine.accelerator else ""
    words = f"{machine.cpu}, {machine.cores} core(s){accelerator}"
    if highest_per_s <= 0:
        raise CertifyError(
            f"slo.json: no rate was within {budget_ms:g} ms on {words}, where one image costs "
            f"{certificate.plan.service_time_ms:.1f} ms of inference; more replicas do not help: "
            f"certify a faster machine, a faster engine, or a longer {PREFIX}BUDGET_MS"
        )
    replicas = replicas_for(rate_per_s, highest_per_s)
    settings = {f"{PREFIX}BUDGET_MS": f"{budget_ms:g}", **certificate.settings}
    return (
        f"for {rate_per_s:g}/s: {replicas} replica(s), each with\n"
        f"  {' '.join(f'{name}={value}' for name, value in settings.items())}\n"
        f"- replicas: {rate_per_s:g}/s ÷ ({LOAD_PART:g} × {highest_per_s:g}/s) = "
        f"{rate_per_s / (LOAD_PART * highest_per_s):.2f}, rounded up, and {SPARE} that may be "
        "missing\n"
        f"- machine: as measured, {words}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.certify", description=__doc__)
    parser.add_argument("--images", type=Path, help="directory; default: the golden images")
    parser.add_argument("--budget-ms", type=float, help=f"default: {PREFIX}BUDGET_MS")
    parser.add_argument("--seconds", type=float, default=15, help="of one probe")
    text = "propose replicas for this rate per second, from the stored certificate if there is one"
    parser.add_argument("--rate", type=float, help=text)
    options = parser.parse_args(arguments)
    # SIGTERM must run the `finally` block that stops the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    environ = dict(os.environ)
    if options.budget_ms is not None:
        environ[f"{PREFIX}BUDGET_MS"] = f"{options.budget_ms:g}"
    try:
        subject = locked_subject(environ, options.images)
        budget_ms = Settings.from_env(environ).budget_ms
        certificate = subject.artifact.slo if options.rate is not None else None
        if certificate is None or certificate.budget_ms != budget_ms:
            certificate = certify(subject, budget_ms=budget_ms, probe_s=options.seconds)
        print(summary(certificate))
        if options.rate is not None:
            print(proposal(certificate, options.rate))
    except (OperatorError, serving.ServerFailed) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
