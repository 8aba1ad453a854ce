"""The text that an import prints."""

from image_classifier.artifact.record import EngineAttempt
from image_classifier.inference.plan import fastest_plan
from importer.report import reasons
from tests.artifact.builder import RECORD
from tests.inference.fakes import attempt


def test_an_import_says_why_an_engine_that_was_measured_as_faster_does_not_serve() -> None:
    attempts = [
        attempt("first", 800, 900, 900, 900, 1000),
        attempt("slower", 500, 600, 600, 600, 700),
        attempt("noisy", 700, 1100, 1100, 1100, 1100),  # slower in the first round
        EngineAttempt(engine="failed", verdict="failed", reason="too far off"),
    ]
    plan = fastest_plan(attempts, 50)
    record = RECORD.model_copy(update={"attempts": attempts, "plan": plan})

    assert reasons(record) == [
        "noisy: not a tenth faster beyond the noise, so the earlier first serves",
        "failed: too far off",
    ]

    # HTTP answers at most 2,000 images a second on a core.
    attempts = [
        attempt("first", *[1900] * 5, threads=1),
        attempt("second", *[9000] * 5, threads=1),
    ]
    record = record.model_copy(update={"attempts": attempts, "plan": fastest_plan(attempts, 50)})

    assert reasons(record) == ["second: faster than HTTP, so the earlier first serves"]
