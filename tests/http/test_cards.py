"""The model card shows what was certified."""

from pathlib import Path

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.record import write_slo
from image_classifier.artifact.store import lock_of
from image_classifier.http.schemas import model_card
from tests.artifact.builder import write_artifact
from tests.artifact.test_record import SLO


def test_the_card_has_the_certificate_of_the_rate_or_says_there_is_none(tmp_path: Path) -> None:
    root = tmp_path / "artifact"
    root.mkdir()
    digest = write_artifact(root)
    lock = lock_of(open_artifact(root))
    before = model_card(lock, open_artifact(root, digest), {}, "embedded")
    write_slo(root, SLO)

    after = model_card(lock, open_artifact(root, digest), {}, "embedded")

    assert before["slo"] is None
    assert after["slo"]["highest_rate_per_s"] == 100
    assert after["slo"]["machine"]["cpu"] == "one"
