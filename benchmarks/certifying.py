"""`python -m benchmarks certify`: measure, or propose from what was measured."""

import os
from pathlib import Path

from benchmarks.certify import Subject, certify, machine_for, subject_from
from benchmarks.plan import Plan
from benchmarks.proposal import in_words, propose
from benchmarks.running import budget_setting
from image_classifier.artifact.record import SloCertificate
from image_classifier.settings import Settings

RESOLUTION = 1.08
MOST_PROBES = 5
"""Enough for that: 10^(1/32) = 1.075."""


def certified(
    images: Path | None, *, budget_ms: float | None, slice_s: float, rate_per_s: float | None
) -> str:
    """Certify the locked model; with a rate, propose.

    Args:
        images: A directory; None takes the golden images of the artifact.
        budget_ms: None takes CLASSIFIER_BUDGET_MS, or its default.
        slice_s: Length of one probe.
        rate_per_s: Propose for it, from the stored certificate if that has this budget, whatever
            its machine (the proposal says where it is another); None only measures.

    Returns:
        What the command line prints.
    """
    environ = dict(os.environ)
    if budget_ms is not None:
        environ |= budget_setting(budget_ms)
    subject = subject_from(environ, images)
    budget_ms = Settings.from_env(environ).budget_ms
    certificate = _stored(subject, budget_ms) if rate_per_s is not None else None
    if certificate is None:
        plan = Plan(
            name="certify",
            cases=(),
            slice_s=slice_s,
            budget_ms=budget_ms,
            resolution=RESOLUTION,
            most_probes=MOST_PROBES,
        )
        certificate = certify(subject, plan)
    lines = [summary(certificate)]
    if rate_per_s is not None:
        here = machine_for(subject.artifact, certificate.plan.engine)
        proposal = propose(certificate, subject.artifact.record, rate_per_s=rate_per_s, here=here)
        lines.append(in_words(proposal, rate_per_s))
    return "\n".join(lines)


def _stored(subject: Subject, budget_ms: float) -> SloCertificate | None:
    """The certificate beside the manifest, if it was measured with this budget."""
    stored = subject.artifact.slo
    return stored if stored is not None and stored.budget_ms == budget_ms else None


def summary(certificate: SloCertificate) -> str:
    """One line."""
    at = (
        f"p50 {certificate.p50_ms:.1f} ms, p99 {certificate.p99_ms:.1f} ms"
        if certificate.p50_ms is not None and certificate.p99_ms is not None
        else "no rate passed"
    )
    return (
        f"certified {certificate.measured_at}: {certificate.highest_rate_per_s:g}/s within "
        f"{certificate.budget_ms:g} ms ({at}), saturated {certificate.saturated_per_s:g}/s, "
        f"started in {certificate.ready_s:.1f} s"
    )
