"""The model card shows what was certified."""

from pathlib import Path

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.record import Plan, write_slo
from image_classifier.artifact.store import lock_of
from image_classifier.http.schemas import EngineCard, ModelCard
from tests.artifact.builder import SLO, write_artifact


def test_the_card_has_the_certificate_of_the_rate_or_says_there_is_none(tmp_path: Path) -> None:
    root = tmp_path / "artifact"
    root.mkdir()
    digest = write_artifact(root)
    artifact = open_artifact(root, digest)
    lock, engine = lock_of(artifact), artifact.evidence.engines[0].name
    plan = Plan(engine=engine, streams=2, threads=2, batch_sizes=(1, 4), service_time_ms=0.12345)
    card = EngineCard.of(artifact.evidence, plan)
    before = ModelCard.of(lock, artifact, card, "embedded")
    write_slo(root, SLO)

    after = ModelCard.of(lock, open_artifact(root, digest), card, "embedded")

    assert before.slo is None
    assert after.slo is not None
    assert after.slo.highest_rate_per_s == 100
    assert after.slo.machine.cpu == "one"
    assert (after.engine.name, after.engine.batch_sizes) == (engine, (1, 4))
    assert after.engine.service_time_ms == 0.123
    assert after.engine.certificate == artifact.evidence.engines[0].certificate
