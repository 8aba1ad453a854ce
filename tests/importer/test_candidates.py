"""The engines that an import tries."""

import pytest

from importer.candidates import choose_candidates
from importer.options import EngineOptions


@pytest.mark.parametrize(
    ("device", "samples", "message"),
    [
        ("cpu", 99, "bf16 and int8 are tried from 100 golden images on; there are 99"),
        ("cuda", 2, "bf16 and fp16 are tried from 100 golden images on; there are 2"),
        ("cpu", 100, ""),
    ],
)
def test_reduced_precision_needs_many_images_unless_requested(
    device: str, samples: int, message: str
) -> None:
    chosen, note = choose_candidates(EngineOptions.model_validate({"device": device}), samples)

    assert note.partition(" (")[0] == message
    assert ({candidate.precision for candidate in chosen} == {"fp32"}) == bool(message)
    assert choose_candidates(EngineOptions.model_validate({"precision": "int8"}), 2)[1] == ""
