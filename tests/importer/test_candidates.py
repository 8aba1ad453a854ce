"""Which engines an import tries."""

import pytest

from importer.candidates import choose_candidates
from importer.options import EngineOptions


def options(**given: str) -> EngineOptions:
    return EngineOptions.model_validate(given)


@pytest.mark.parametrize(
    ("device", "samples", "told"),
    [
        ("cpu", 99, "bf16 and int8 are tried from 100 golden images on; there are 99"),
        ("cuda", 2, "bf16 and fp16 are tried from 100 golden images on; there are 2"),
        ("cpu", 100, ""),
    ],
)
def test_precisions_that_too_few_images_leave_out_are_told(
    device: str, samples: int, told: str
) -> None:
    chosen, note = choose_candidates(options(device=device), samples)

    assert note.partition(" (")[0] == told
    assert ({candidate.precision for candidate in chosen} == {"fp32"}) == bool(told)
    # One that was asked for is tried whatever the number of images.
    assert choose_candidates(options(precision="int8"), 2)[1] == ""
