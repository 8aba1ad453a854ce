"""The imported digits example, against the network run by hand in eager torch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

from examples.digits.network import build
from examples.digits.preprocessing import DigitsPreprocessing
from image_classifier.artifact.artifact import Artifact, open_artifact
from tests.artifact.builder import sha256
from tests.imports import DIGITS, SAMPLES


@pytest.fixture(scope="module")
def artifact(digits_folder: Path) -> Artifact:
    return open_artifact(digits_folder)


def input_by_hand(path: Path) -> np.ndarray:
    """The input of the research pipeline: Pillow, upright, on white, grey."""
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened)
        if upright.mode == "I;16":  # the documented rule: the high byte
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if upright.mode in ("RGBA", "LA") or "transparency" in upright.info:
            upright = Image.alpha_composite(
                Image.new("RGBA", upright.size, "white"), upright.convert("RGBA")
            )
        return DigitsPreprocessing().to_input(upright.convert("L"))


def logits_by_hand(inputs: np.ndarray) -> np.ndarray:
    """Eager torch with the committed weights; mean 0.19 and std 0.31 are the training's."""
    network = build()
    network.load_state_dict(load_file(DIGITS / "weights.safetensors"))
    network.eval()
    pixels = torch.from_numpy(inputs.astype(np.float64)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return np.asarray(network.double()((pixels / 255 - 0.19) / 0.31).numpy())


def test_golden_files_inputs_and_logits_are_those_of_the_research_pipeline(
    artifact: Artifact,
) -> None:
    golden = artifact.manifest.golden
    inputs = np.stack([input_by_hand(SAMPLES / entry.name) for entry in golden])

    by_hand = logits_by_hand(inputs)

    files = dict(zip((entry.name for entry in golden), artifact.golden_files(), strict=True))
    assert files == {path.name: path.read_bytes() for path in SAMPLES.iterdir()}
    assert [entry.class_id for entry in golden] == [int(entry.name[0]) for entry in golden]
    assert [entry.input_sha256 for entry in golden] == [sha256(item.tobytes()) for item in inputs]
    assert artifact.reference()[0] == pytest.approx(by_hand, abs=1e-4)
