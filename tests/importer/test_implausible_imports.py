"""Imports that make no sense are refused before anything is written, and served if accepted."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.store import open_in_store
from image_classifier.inference.predictions import Prediction, top_k_predictions
from importer.errors import ImportRefused
from importer.options import ImportOptions
from tests.imports import import_quietly

NETWORK = """import torch
from torch import nn
from torch.nn import functional


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(48, 3)

    def forward(self, batch):
        logits = self.linear(batch.flatten(1))
        return {answer}


def build():
    return Network()
"""
CLASS = """import numpy as np
from preprocessing import DecodeRules


class Own:
    decode = DecodeRules()
    input_shape = (4, 4, 3)
    input_dtype = "uint8"
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def to_input(self, image):
        pixels = np.asarray(image.resize((4, 4)))
        return np.ascontiguousarray({answer})
"""


def options(folder: Path, **changes: Any) -> ImportOptions:
    """Twelve golden images in three colours; the network answers with the strongest channel."""
    for number in range(12):
        pixels = np.zeros((4, 4, 3), dtype=np.uint8)
        pixels[..., number % 3] = 100 + number
        path = folder / "golden" / "rgb"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    weight = torch.eye(3).repeat_interleave(16, dim=1)  # (3, 48): channel-major
    save_file({"linear.weight": weight, "linear.bias": torch.zeros(3)}, folder / "w.safetensors")
    (folder / "network.py").write_text(NETWORK.format(answer=changes.pop("network", "logits")))
    (folder / "own.py").write_text(CLASS.format(answer=changes.pop("own", "pixels")))
    (folder / "labels.txt").write_text("\n".join(str(changes.pop("labels", "rgb"))))
    if "spec" in changes:
        (folder / "spec.yaml").write_text(changes.pop("spec"))
        changes["preprocessing"] = str(folder / "spec.yaml")
    if "reference" in changes:
        (folder / "reference.npz").touch()
    given: dict[str, object] = {
        "name": "colours",
        "network": f"{folder}/network.py:build",
        "weights": str(folder / "w.safetensors"),
        "preprocessing": f"{folder}/own.py:Own",
        "labels": folder / "labels.txt",
        "golden": folder / "golden",
        "engine": "onnxruntime",
        "precision": "fp32",
        "measure_seconds": 0.001,
    }
    return ImportOptions.model_validate({**given, **changes})


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"network": "logits + torch.rand(3)"}, "unstable-reference"),
        ({"network": "logits - logits.mean(dim=0)"}, "batch-dependent"),
        ({"network": "logits * 0 + 2 * self.linear.weight[:, 0]"}, "constant-logits"),
        ({"own": "pixels[..., ::-1]"}, "permuted-labels|channel-order"),
        ({"labels": "brg"}, "permuted-labels"),
        ({"spec": "{crop: 4, mean: [127, 127, 127], std: [58, 58, 58]}"}, "mean-std-scale"),
    ],
)
def test_an_implausible_import_is_refused_and_leaves_nothing(
    store: Path, tmp_path: Path, changes: dict[str, object], finding: str
) -> None:
    with pytest.raises(ImportRefused, match=f"--accept ({finding})"):
        import_quietly(options(tmp_path, **changes), tmp_path / "model.lock")

    assert not (tmp_path / "model.lock").exists()
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_of_two_causes_neither_is_taken_for_the_likely_one(store: Path, tmp_path: Path) -> None:
    reversed_channels = options(tmp_path, own="pixels[..., ::-1]")

    with pytest.raises(ImportRefused, match=r"Either .* BGR .* Or .* with the labels in another o"):
        import_quietly(reversed_channels, tmp_path / "model.lock")


def test_folders_that_name_no_label_are_blamed_for_wrong_answers(
    store: Path, tmp_path: Path
) -> None:
    given = options(tmp_path)
    for label, folder in zip("rgb", "zyx", strict=True):
        (tmp_path / "golden" / label).rename(tmp_path / "golden" / folder)
    with pytest.raises(ImportRefused, match="folders 'x', 'y', 'z' name no label; ") as refused:
        import_quietly(given, tmp_path / "model.lock")
    assert "BGR" not in str(refused.value)


def test_a_sound_import_and_an_accepted_one_say_what_they_rest_on(
    store: Path, tmp_path: Path
) -> None:
    sound = import_quietly(options(tmp_path), tmp_path / "model.lock")
    accepted = import_quietly(
        options(tmp_path, labels="brg", accept="permuted-labels"), tmp_path / "model.lock"
    )

    assert sound.proof[0] == "reference: 12 of 12 labelled images right (100.0%)"
    assert re.match(
        r"no --reference: that .* probabilities \(softmax\) .* is unproven", sound.proof[1]
    )
    assert accepted.proof[0] == "reference: 0 of 12 labelled images right (0.0%)"
    assert accepted.proof[-1] == "accepted without proof: permuted-labels"


def logits_by_hand(folder: Path) -> dict[str, np.ndarray]:
    """The strongest channel of each golden image: 16 pixels a channel, mean and std 0.5."""
    rows = {}
    for path in (folder / "golden").rglob("*.png"):
        pixels = np.asarray(Image.open(path)).astype(np.float64) / 255
        rows[path.relative_to(folder / "golden").as_posix()] = ((pixels - 0.5) / 0.5).sum((0, 1))
    return rows


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits)))


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize(
    ("activation", "kind", "numbers"),
    [
        (None, "probabilities", softmax),
        (None, "logits", softmax),  # recognised
        ("sigmoid", "logits", sigmoid),
        ("none", "logits", lambda logits: logits),
    ],
)
def test_the_notebook_may_save_what_it_has(
    store: Path,
    tmp_path: Path,
    activation: str | None,
    kind: str,
    numbers: Callable[[np.ndarray], np.ndarray],
) -> None:
    given = options(tmp_path, activation=activation, reference=tmp_path / "reference.npz")
    logits = logits_by_hand(tmp_path)
    rows = numbers(np.stack(list(logits.values())))
    arrays: dict[str, Any] = {"files": list(logits), kind: rows}
    np.savez(tmp_path / "reference.npz", **arrays)

    imported = import_quietly(given, tmp_path / "model.lock")

    assert imported.proof[1] == "the notebook's numbers are reproduced on 12 golden images"
    assert imported.evidence.reference == "given"


def test_a_sigmoid_is_certified_label_by_label_as_it_is_served(store: Path, tmp_path: Path) -> None:
    given = options(tmp_path, activation="sigmoid", threshold=0.02)

    imported = import_quietly(given, tmp_path / "model.lock")

    (engine,) = imported.evidence.engines
    proof = engine.certificate
    assert (proof.label_agreement, proof.top1_agreement) == (1, None)
    assert proof.max_probability_difference is not None
    assert proof.max_probability_difference < 1e-5
    artifact = open_in_store(imported.lock.tag)
    outputs, by_hand = artifact.manifest.outputs, logits_by_hand(tmp_path)
    for entry, logits in zip(artifact.manifest.golden, artifact.reference()[0], strict=True):
        served = top_k_predictions(logits, artifact.labels(), 3, outputs)
        expected = sigmoid(by_hand[entry.name])
        over = {label for label, number in zip("rgb", expected, strict=True) if number >= 0.02}
        assert {one.label for one in served} == over
        assert [one.probability for one in served if isinstance(one, Prediction)] == pytest.approx(
            sorted(expected[expected >= 0.02], reverse=True), abs=1e-6
        )


def test_a_preprocessing_class_that_draws_lots_is_refused(store: Path, tmp_path: Path) -> None:
    lots = "pixels + np.random.randint(0, 9, (4, 4, 3), np.uint8)"

    with pytest.raises(ImportRefused, match="preprocessing: to_input gives another input when"):
        import_quietly(options(tmp_path, own=lots), tmp_path / "model.lock")


@pytest.mark.parametrize(
    ("activation", "rows", "reason"),
    [
        (None, [0.9, 0.8, 0.1], "do not sum to 1.*add --activation sigmoid"),
        ("sigmoid", [0.5, 0.25, 0.25], "sum to 1 in each row.*leave --activation sigmoid out"),
    ],
)
def test_probabilities_that_the_activation_does_not_give_are_refused(
    store: Path, tmp_path: Path, activation: str | None, rows: list[float], reason: str
) -> None:
    given = options(tmp_path, activation=activation, reference=tmp_path / "reference.npz")
    files = list(logits_by_hand(tmp_path))
    np.savez(tmp_path / "reference.npz", files=files, probabilities=[rows] * len(files))

    with pytest.raises(ArtifactError, match=reason):
        import_quietly(given, tmp_path / "model.lock")
