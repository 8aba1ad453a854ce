"""What is proposed for a wanted rate, worked out by hand."""

import dataclasses

import pytest

from benchmarks.proposal import ProposalError, in_words, propose, replicas_for
from benchmarks.running import ROOT
from image_classifier.artifact.record import EngineAttempt, ImportRecord, LatencyPoint, Machine
from tests.artifact.test_record import SLO


def point(batch_size: int, latency_ms: float, images_per_s: float) -> LatencyPoint:
    return LatencyPoint(
        batch_size=batch_size,
        streams=2,
        threads=2,
        latency_ms=latency_ms,
        images_per_s=images_per_s,
    )


def record(*curve: LatencyPoint, machine: Machine = SLO.machine) -> ImportRecord:
    return ImportRecord(
        imported_at="2026-01-01T00:00:00+00:00",
        command="",
        source_commit=None,
        machine=machine,
        budget_ms=50,
        attempts=(EngineAttempt(engine="openvino-fp32", verdict="passed", curve=curve),),
        plan=SLO.plan,
    )


# One replica is given 0.7 × 100/s = 70/s: 70 fits in one, 71 needs two, 210 is exactly three; one
# more may be gone.
@pytest.mark.parametrize(
    ("rate_per_s", "expected"), [(1, 2), (70, 2), (71, 3), (140, 3), (210, 4), (1000, 16)]
)
def test_with_one_replica_gone_none_is_given_more_than_seven_tenths_of_its_highest_rate(
    rate_per_s: float, expected: int
) -> None:
    assert replicas_for(rate_per_s, 100) == expected


def test_the_example_of_the_document_is_what_the_command_proposes() -> None:
    document = (ROOT / "docs" / "deploy.md").read_text()

    assert "replicas = ceil(P / (0.7 · R)) + 1" in document
    assert "R = 90/s, P = 500/s → ceil(500 / 63) + 1 = 9 pods" in document
    assert replicas_for(500, 90) == 9


def test_the_arithmetic_is_stated() -> None:
    proposal = propose(SLO, None, rate_per_s=200, here=SLO.machine)

    # 200 ÷ 70 = 2.857
    assert proposal.replicas == 4
    assert "200/s ÷ (0.7 × 100/s) = 2.86, rounded up, and 1 that may be gone: 4" in in_words(
        proposal, 200
    )


def test_the_batch_cap_is_the_largest_that_pays_within_half_the_budget() -> None:
    # 4 images take 30 ms, more than 25: not allowed. 2 take 20 ms and give a quarter more than 1.
    curve = (point(1, 12, 160), point(2, 20, 200), point(4, 30, 260))

    proposal = propose(SLO, record(*curve), rate_per_s=50, here=SLO.machine)

    assert (proposal.batch_cap, proposal.streams, proposal.workers) == (2, 2, 1)
    assert any("200 images/s at 20.0 ms" in reason for reason in proposal.reasons)


def test_a_curve_of_another_machine_is_not_used() -> None:
    elsewhere = SLO.machine.model_copy(update={"cores": 64})
    curve = record(point(1, 12, 160), point(2, 20, 200), machine=elsewhere)

    proposal = propose(SLO, curve, rate_per_s=50, here=SLO.machine)

    assert proposal.batch_cap == 1  # the certificate's own plan


def test_another_machine_has_to_be_measured() -> None:
    elsewhere = SLO.machine.model_copy(update={"cpu": "another"})

    there = propose(SLO, None, rate_per_s=50, here=elsewhere)
    here = propose(SLO, None, rate_per_s=50, here=SLO.machine)

    assert any("run `make certify` on the machine" in reason for reason in there.reasons)
    assert not any("make certify" in reason for reason in here.reasons)


def test_with_a_runner_every_core_decodes() -> None:
    slo = SLO.model_copy(update={"topology": "runner"})

    assert propose(slo, None, rate_per_s=1, here=SLO.machine).workers == 2
    own = slo.model_copy(update={"settings": {"CLASSIFIER_WORKERS": "5"}})
    assert propose(own, None, rate_per_s=1, here=SLO.machine).workers == 5


def test_replicas_do_not_help_where_no_rate_is_within_the_budget() -> None:
    none = SLO.model_copy(update={"highest_rate_per_s": 0.0, "p50_ms": None, "p99_ms": None})

    with pytest.raises(ProposalError, match=r"one image alone takes 80\.0 ms") as refused:
        propose(none, record(point(1, 80, 12)), rate_per_s=1, here=SLO.machine)
    assert "certify a faster machine" in str(refused.value)


def test_a_proposal_is_a_frozen_value() -> None:
    proposal = propose(SLO, None, rate_per_s=1, here=SLO.machine)

    with pytest.raises(dataclasses.FrozenInstanceError):
        proposal.replicas = 2  # type: ignore[misc]
