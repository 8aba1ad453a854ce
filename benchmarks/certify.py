"""Measures what this machine holds with the locked model; writes slo.json beside its manifest."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.applied_load import Load
from benchmarks.catalogue import PRODUCT_SERVER
from benchmarks.dialects import Dialect
from benchmarks.exchanges import LOOPBACK, Target
from benchmarks.machine import commit_if_known
from benchmarks.plan import Plan
from benchmarks.record import HighestRate, Run
from benchmarks.run import BUILD, say
from benchmarks.running import (
    ROOT,
    RunningServer,
    ask,
    clean_environment,
    patient_setting,
    running,
)
from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.record import Machine, SloCertificate, write_slo
from image_classifier.artifact.record import Plan as EnginePlan
from image_classifier.artifact.store import locate, read_lock
from image_classifier.inference.engines.load import accelerator_of
from image_classifier.inference.machine import this_machine
from image_classifier.settings import PREFIX, Settings
from preprocessing.errors import OperatorError

WARMUP_S = 2.0
CONNECTIONS = 4
"""Of the warmup."""
GOLDEN = "golden"
NEAR_TIE_PART = 0.9
"""Classes whose probability reaches this part of the best are all right answers: sums are taken in
another order in other batches."""


class CertifyError(OperatorError):
    """There is nothing to certify, or nothing to certify it with."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is certified.

    Attributes:
        artifact: Locked and verified.
        settings: CLASSIFIER_* as given, the lock among them.
        images: Bytes of each file.
        images_name: GOLDEN, or the name of their directory.
    """

    artifact: Artifact
    settings: dict[str, str]
    images: tuple[bytes, ...]
    images_name: str


def subject_from(environ: Mapping[str, str], images: Path | None) -> Subject:
    """The model that `make serve` would serve, with its golden images or those of a directory.

    Raises:
        OperatorError: A setting, the lock, the artifact or the directory is not right.
    """
    settings = Settings.from_env(environ)
    lock = read_lock(ROOT / settings.lock)
    artifact = open_artifact(locate(lock.tag), lock.manifest_sha256, lock.evidence_sha256)
    if images is None:
        files = tuple(sample.data for sample in artifact.golden_samples())
    else:
        files = images_of(images)
    return Subject(
        artifact=artifact,
        settings={name: value for name, value in environ.items() if name.startswith(PREFIX)},
        images=files,
        images_name=GOLDEN if images is None else images.name,
    )


def images_of(folder: Path) -> tuple[bytes, ...]:
    """Every file of a directory, by name.

    Raises:
        CertifyError: There is none.
    """
    files = sorted(path for path in folder.glob("*") if path.is_file())
    if not files:
        raise CertifyError(f"{folder}: no file, expected images; name another with --images")
    return tuple(path.read_bytes() for path in files)


def certify(subject: Subject, plan: Plan) -> SloCertificate:
    """Serve the model as an operator would, measure, and write the certificate.

    The saturated throughput is measured first, on a start that refuses nothing.

    Raises:
        OperatorError: The server does not start, or refuses one of the images when idle.
    """
    requests = tuple(_dialect().request(data) for data in subject.images)
    with _served(subject, requests, patient_setting()) as load:
        saturated = load.saturate(plan)
        say(f"saturated {saturated.answered_per_s:.1f}/s")
    with _served(subject, requests, {}) as load:
        server = load.server
        card = json.loads(ask(server.port, _get("/model"))[1])
        say(f"started in {server.ready_s:.1f} s")
        runs: list[Run] = []
        found = load.search(plan, saturated, runs, say)
    certificate = _certificate(subject, plan, (server, card), (saturated, found, runs))
    say(f"written: {write_slo(subject.artifact.root, certificate).name} of {card['model']['tag']}")
    return certificate


@contextlib.contextmanager
def _served(
    subject: Subject, requests: tuple[bytes, ...], settings: dict[str, str]
) -> Iterator[Load]:
    """The model, started and warm; `settings` go before those of the subject."""
    variables = {**PRODUCT_SERVER.variables, **subject.settings, **settings}
    with running(
        PRODUCT_SERVER,
        sys.executable,
        environment=clean_environment(variables),
        log_path=BUILD / "logs" / "certify.log",
        probe=_probe(requests),
    ) as server:
        load = Load(server=server, target=_target(subject, requests, server.port))
        load.keep_busy(CONNECTIONS, WARMUP_S)
        yield load


def _dialect() -> Dialect:
    # The decoder says what the bytes are; the golden images are of any format.
    return dataclasses.replace(
        PRODUCT_SERVER.dialect,
        encode=lambda data: ({"Content-Type": "application/octet-stream"}, data),
    )


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\n\r\n".encode()


def _probe(requests: tuple[bytes, ...]) -> Target:
    """Any 200 to the first image is a start: the self-check has proven the numbers by then."""
    return Target(
        server=PRODUCT_SERVER.name,
        model="",
        images="",
        port=0,
        requests=requests[:1],
        accepted=(frozenset({0}),),
        read_class=lambda _: 0,
    )


def _target(subject: Subject, requests: tuple[bytes, ...], port: int) -> Target:
    """Right is what the idle server answers to the image alone."""
    accepted = []
    for index, request in enumerate(requests):
        status, body = ask(port, request)
        if status != 200:
            raise CertifyError(
                f"image {index} of {subject.images_name}: answered {status}: "
                f"{body[:160].decode(errors='replace')}; expected 200; remove the file"
            )
        accepted.append(near_best(json.loads(body)["predictions"]))
    return Target(
        server=PRODUCT_SERVER.name,
        model=subject.artifact.manifest.name,
        images=subject.images_name,
        port=port,
        requests=requests,
        accepted=tuple(accepted),
        read_class=PRODUCT_SERVER.dialect.read_class,
    )


def near_best(predictions: list[dict[str, Any]]) -> frozenset[int]:
    """The best class, and those it would not take much to be best."""
    best = predictions[0]["probability"]
    return frozenset(
        each["class_id"] for each in predictions if each["probability"] >= NEAR_TIE_PART * best
    )


def _certificate(
    subject: Subject,
    plan: Plan,
    served: tuple[RunningServer, dict[str, Any]],
    measured: tuple[Run, HighestRate, list[Run]],
) -> SloCertificate:
    server, card = served
    saturated, found, runs = measured
    at_highest = [run for run in runs if run.offered_rate_per_s == found.rate_per_s]
    return SloCertificate(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit_if_known(ROOT),
        machine=machine_for(subject.artifact, card["engine"]["name"]),
        images=subject.images_name,
        image_count=len(subject.images),
        topology=card["topology"],
        settings={
            name: value for name, value in subject.settings.items() if name != f"{PREFIX}LOCK"
        },
        plan=plan_of(card["engine"]),
        budget_ms=plan.budget_ms,
        highest_rate_per_s=found.rate_per_s,
        first_failed_rate_per_s=found.first_failed_rate_per_s,
        p50_ms=at_highest[0].percentile_ms(50) if at_highest else None,
        p99_ms=at_highest[0].percentile_ms(99) if at_highest else None,
        saturated_per_s=round(saturated.answered_per_s, 1),
        ready_s=server.ready_s,
        rule=found.rule,
    )


def machine_for(artifact: Artifact, engine: str) -> Machine:
    """This machine, with its GPU where the engine uses one."""
    return this_machine(accelerator_of(artifact.evidence.engine(engine).kind))


def plan_of(engine: dict[str, Any]) -> EnginePlan:
    """How the server runs the network, as `GET /model` shows it."""
    return EnginePlan(
        engine=engine["name"],
        streams=engine["streams"],
        threads=engine["threads"],
        batch_sizes=tuple(engine["batch_sizes"]),
        service_time_ms=engine["service_time_ms"],
        single_stream=engine["single_stream"],
    )
