"""From what was measured to what to run for a wanted rate, with the arithmetic in words."""

import math
from dataclasses import dataclass

from image_classifier.artifact.record import ImportRecord, LatencyPoint, Machine, SloCertificate
from image_classifier.artifact.record import Plan as EnginePlan
from image_classifier.inference.plan import best_point, plan_for
from preprocessing.errors import OperatorError

LOAD_PART = 0.7
"""Of the highest rate, the most a replica is given (docs/deploy.md, "Sizing"): the queue stays
short while replicas start, the machine's speed drifts, a balancer does not spread arrivals evenly.
"""
SPARE = 1
"""Replicas that may be gone at any time: rollout, eviction."""


class ProposalError(OperatorError):
    """What was measured does not allow a proposal; says what to measure."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """How to run the model for a wanted rate.

    Attributes:
        budget_ms: CLASSIFIER_BUDGET_MS.
        batch_cap, streams, threads: What serving takes from the curve with this budget.
        workers: CLASSIFIER_WORKERS.
        replicas: Of the machine that was measured.
        reasons: One sentence each.
    """

    budget_ms: float
    batch_cap: int
    streams: int
    threads: int
    workers: int
    replicas: int
    reasons: tuple[str, ...]


def propose(
    certificate: SloCertificate, record: ImportRecord | None, *, rate_per_s: float, here: Machine
) -> Proposal:
    """Work out the proposal.

    Args:
        record: Of the import; its latency curve decides the batch cap where it is of the machine
            that was certified, else the certificate's own plan does.
        rate_per_s: Wanted, of the whole service.
        here: The machine that asks.

    Raises:
        ProposalError: No rate was within the budget, so that no number of replicas helps.
    """
    if certificate.highest_rate_per_s <= 0:
        raise ProposalError(_no_rate(certificate, record))
    plan, plan_reason = _plan(certificate, record)
    share_per_s = LOAD_PART * certificate.highest_rate_per_s
    replicas = replicas_for(rate_per_s, certificate.highest_rate_per_s)
    workers = 1 if certificate.topology == "embedded" else certificate.machine.cores
    return Proposal(
        budget_ms=certificate.budget_ms,
        batch_cap=plan.batch_sizes[-1],
        streams=plan.streams,
        threads=plan.threads,
        workers=int(certificate.settings.get("CLASSIFIER_WORKERS", workers)),
        replicas=replicas,
        reasons=(
            f"replicas: {rate_per_s:g}/s ÷ ({LOAD_PART:g} × {certificate.highest_rate_per_s:g}/s) "
            f"= {rate_per_s / share_per_s:.2f}, rounded up, and {SPARE} that may be gone: "
            f"{replicas}; Poisson arrivals divided at random among replicas are Poisson arrivals, "
            "so each sees what was measured",
            f"budget: {certificate.budget_ms:g} ms, as certified; p99 was {certificate.p99_ms:.1f} "
            f"ms at {certificate.highest_rate_per_s:g}/s",
            plan_reason,
            _workers_reason(certificate),
            _machine_reason(certificate, here),
        ),
    )


def replicas_for(rate_per_s: float, highest_rate_per_s: float) -> int:
    """Replicas of which none gets more than `LOAD_PART` of the highest rate with one gone."""
    # Rounded first: 210 / (0.7 * 100) may be 3.0000000000000004 or so in binary.
    return math.ceil(round(rate_per_s / (LOAD_PART * highest_rate_per_s), 9)) + SPARE


def _curve(certificate: SloCertificate, record: ImportRecord | None) -> tuple[LatencyPoint, ...]:
    if record is None or record.machine != certificate.machine:
        return ()
    return record.curve(certificate.plan.engine)


def _plan(certificate: SloCertificate, record: ImportRecord | None) -> tuple[EnginePlan, str]:
    engine = certificate.plan.engine
    curve = _curve(certificate, record)
    if not curve:
        plan = certificate.plan
        return plan, (
            f"batch cap {plan.batch_sizes[-1]}, {plan.streams} stream(s), {plan.threads} threads: "
            f"as certified; the import measured {engine} on another machine, or not at all"
        )
    plan = plan_for(engine, curve, certificate.budget_ms)
    best = best_point(engine, curve, certificate.budget_ms)
    return plan, (
        f"batch cap {best.batch_size}, {best.streams} stream(s), {best.threads} threads: "
        f"{best.images_per_s:.0f} images/s at {best.latency_ms:.1f} ms a batch, the most of "
        f"{len(curve)} measured points within half the budget ({certificate.budget_ms / 2:g} ms)"
    )


def _workers_reason(certificate: SloCertificate) -> str:
    if certificate.topology == "embedded":
        return "workers: 1 API process; its streams use all cores already"
    cores = certificate.machine.cores
    return f"workers: {cores}, one API process a core decodes; one runner infers"


def _machine_reason(certificate: SloCertificate, here: Machine) -> str:
    machine = certificate.machine
    words = f"{machine.cpu}, {machine.cores} core(s)" + (
        f", {machine.accelerator}" if machine.accelerator else ""
    )
    if machine == here:
        return f"machine: each replica needs what was measured: {words}"
    return (
        f"machine: measured on {words}, which is not this one; run `make certify` on the machine "
        "that will serve, this number does not carry over"
    )


def _no_rate(certificate: SloCertificate, record: ImportRecord | None) -> str:
    curve = _curve(certificate, record)
    single = min((point.latency_ms for point in curve if point.batch_size == 1), default=None)
    alone = "" if single is None else f"one image alone takes {single:.1f} ms of inference; "
    return (
        f"slo.json: no rate was within {certificate.budget_ms:g} ms on {certificate.machine.cpu}, "
        f"{certificate.machine.cores} core(s); {alone}replicas do not shorten a request: certify "
        "a faster machine, a faster engine, or a longer --budget-ms"
    )


def in_words(proposal: Proposal, rate_per_s: float) -> str:
    """The proposal as the command line prints it."""
    return "\n".join(
        [
            f"for {rate_per_s:g}/s: {proposal.replicas} replica(s) of this machine, each with",
            f"  CLASSIFIER_BUDGET_MS={proposal.budget_ms:g} CLASSIFIER_WORKERS={proposal.workers}",
            f"  batch cap {proposal.batch_cap}, {proposal.streams} stream(s), {proposal.threads} "
            "thread(s), which serving chooses itself from the curve",
            *(f"- {reason}" for reason in proposal.reasons),
        ]
    )
