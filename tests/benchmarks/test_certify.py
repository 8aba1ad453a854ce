"""The certificate says what the server says of itself."""

from pathlib import Path

import pytest

from artifact.opened import open_artifact
from artifact.record import Plan
from benchmarks.certify import plan_of
from tests.artifact.builder import write_artifact
from web.cards import engine_card


@pytest.mark.parametrize("solo", [True, False])
def test_the_certified_plan_is_the_one_the_server_shows(tmp_path: Path, solo: bool) -> None:
    manifest = open_artifact(tmp_path, write_artifact(tmp_path)).manifest
    plan = Plan(
        engine=manifest.engines[0].name,
        streams=2,
        threads=3,
        batch_sizes=(1, 4),
        image_ms=7.5,
        solo=solo,
    )

    assert plan_of(engine_card(manifest, plan)) == plan
