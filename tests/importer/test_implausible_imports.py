"""Imports that make no sense are refused before anything is written, and served if accepted."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models

from image_classifier.artifact.store import open_in_store
from importer.errors import ImportRefused
from importer.options import ImportOptions
from importer.torchvision_models import torchvision_meta
from model_import import main
from tests.importer.colours import colour_logits, colour_options
from tests.imports import digits_options, import_quietly

MIXES_THE_BATCH = "logits - logits.mean(dim=0, keepdim=True) / 2"
MINUS_INFINITY = "-float('inf')"
Numbers = Callable[[np.ndarray], np.ndarray]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"network": "logits + torch.rand(3)"}, "--accept unstable-reference"),
        # Accepted in torch; then each engine is compared in batches with its single runs.
        (
            {"network": MIXES_THE_BATCH, "accept": ("batch-dependent",)},
            "onnxruntime-fp32: in batches of 2: a logit is off by",
        ),
        ({"network": "logits * 0 + 2 * self.linear.weight[:, 0]"}, "--accept constant-logits"),
        ({"network": "logits.softmax(1)"}, "are probabilities, expected logits; leave its softmax"),
        (
            {"network": f"logits + torch.tensor([0, 0, {MINUS_INFINITY}])"},
            "masks classes with -inf",
        ),
        # Of another class in each image.
        (
            {"network": f"logits.where(logits < logits.amax(1)[:, None], {MINUS_INFINITY})"},
            "infinity; check the weights",
        ),
        ({"labels": "brg"}, "--accept permuted-labels"),
        # Both mistakes explain the answers, so both are reported.
        (
            {"own": "pixels[..., ::-1]"},
            r"BGR .* --accept channel-order; .* in another order .* --accept permuted-labels",
        ),
        ({"network": "logits + self.shift"}, "^network: built again .* at random"),
        ({"network": "logits + self.draw()"}, "^network: built again .* at random"),
        ({"network": "logits + DRAWN"}, "^network: built again .* at random"),
        ({"network": "self.layers[0](logits)"}, "^network: built again .* at random"),
        (
            {"network": "logits + self.first_image(logits)"},
            "^network: built again .* with its first image: make the mark .* a buffer",
        ),
        ({"network": "nn.functional.softplus(logits) + 1"}, "ends in softplus, so its outputs"),
        (
            {"spec": {"crop": 4, "mean": [0.25, 0.5, 0.75], "std": [0.5] * 3}},
            "network: mean is the mean .* normalised twice; .* --accept mean-std-scale",
        ),
        ({"spec": {"crop": 4, "mean": [127] * 3, "std": [58] * 3}}, "--accept mean-std-scale"),
    ],
)
def test_an_implausible_import_is_refused_and_leaves_nothing(
    store: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ImportRefused, match=reason):
        import_quietly(colour_options(tmp_path, **changes), tmp_path / "model.lock")

    assert not (tmp_path / "model.lock").exists()
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_labels_in_another_order_than_torchvisions_are_refused_for_its_weights(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = torchvision_meta("squeezenet1_1", "IMAGENET1K_V1")
    monkeypatch.setattr("importer.network.published_weights", lambda *_: published)
    network = torchvision.models.squeezenet1_1()
    network.classifier[1].bias.data = torch.linspace(0, 9, 1_000)  # outputs beyond [0, 1]
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    first, second, *others = published.labels
    (tmp_path / "labels.json").write_text(json.dumps([second, first, *others]))
    options = digits_options(
        network="torchvision:squeezenet1_1",
        weights=str(tmp_path / "weights.pt"),
        preprocessing="torchvision:squeezenet1_1",
        labels=str(tmp_path / "labels.json"),
        golden_labels=None,
        golden_count=2,
    )

    with pytest.raises(ImportRefused, match="class 0 is 'goldfish', in torchvision's labels it is"):
        import_quietly(options, tmp_path / "model.lock")


def test_an_import_reports_its_proof_and_a_second_one_measures_the_same_artifact_again(
    store: Path, tmp_path: Path
) -> None:
    first, second = (
        import_quietly(colour_options(tmp_path), tmp_path / "model.lock") for _ in range(2)
    )
    accepted = import_quietly(
        colour_options(tmp_path, labels="brg", accept=["permuted-labels"]), tmp_path / "model.lock"
    )

    assert (first.known, second.known, second.lock) == (False, True, first.lock)
    assert first.record.attempts != second.record.attempts  # no two measurements are equal
    assert open_in_store(first.lock.tag).record == second.record
    assert first.record.proof[0] == "reference: 12 of 12 labelled images right (100.0%)"
    assert re.match(
        r"no --reference: that .* probabilities \(softmax\) .* is unproven", first.record.proof[1]
    )
    assert accepted.record.proof[0] == "reference: 0 of 12 labelled images right (0.0%)"
    assert accepted.record.proof[-1] == "accepted without proof: permuted-labels"


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits)))


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True))


def with_reference(
    folder: Path, activation: str | None, kind: str, numbers: Numbers
) -> ImportOptions:
    (folder / "reference.npz").touch()
    options = colour_options(folder, activation=activation, reference=folder / "reference.npz")
    logits = colour_logits(folder)
    rows = numbers(np.stack(list(logits.values())))
    arrays: dict[str, Any] = {"files": list(logits), kind: rows}
    np.savez(folder / "reference.npz", **arrays)
    return options


@pytest.mark.parametrize(
    ("activation", "kind", "numbers"),
    [
        (None, "probabilities", softmax),
        ("none", "logits", np.asarray),
        (None, "logits", np.asarray),
    ],
)
def test_a_reference_of_probabilities_or_logits_is_reproduced(
    store: Path, tmp_path: Path, activation: str | None, kind: str, numbers: Numbers
) -> None:
    options = with_reference(tmp_path, activation, kind, numbers)

    imported = import_quietly(options, tmp_path / "model.lock")

    within = rf"the notebook's {kind} are reproduced within \d\S* on 12 golden images"
    assert re.fullmatch(within, imported.record.proof[1])
    unproven = "what the notebook makes of them" in " ".join(imported.record.proof)
    assert unproven == (kind == "logits" and activation is None)
    assert "the golden images do not show" in imported.record.proof[-1]
    assert imported.evidence.reference == "given"


@pytest.mark.parametrize(
    ("activation", "kind", "numbers", "reason"),
    [
        (None, "logits", softmax, "probabilities after a softmax; save them as probabilities="),
        ("sigmoid", "logits", sigmoid, "after a sigmoid; save them as probabilities="),
        (None, "probabilities", sigmoid, "do not sum to 1.*add --activation sigmoid"),
        (None, "probabilities", lambda rows: softmax(rows / 9).round(4) - 0.0004, "unrounded$"),
        ("sigmoid", "probabilities", softmax, "sum to 1 in each row.*leave --activation sigmoid o"),
    ],
)
def test_a_reference_of_other_numbers_than_the_activation_gives_is_refused(
    store: Path, tmp_path: Path, activation: str | None, kind: str, numbers: Numbers, reason: str
) -> None:
    with pytest.raises(ImportRefused, match=reason):
        import_quietly(with_reference(tmp_path, activation, kind, numbers), tmp_path / "model.lock")


def test_a_sigmoid_is_certified_and_predicted_label_by_label(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Green reaches the threshold in every image, red and blue in their own.
    options = colour_options(
        tmp_path,
        network="logits / torch.tensor([1.0, 8.0, 1.0])",
        activation="sigmoid",
        threshold=0.02,
        accept=["chance-accuracy", "permuted-labels"],
    )

    imported = import_quietly(options, tmp_path / "model.lock")

    (engine,) = imported.evidence.engines
    proof = engine.certificate
    assert (proof.label_agreement, proof.top1_agreement) == (1, None)
    assert proof.max_probability_difference is not None
    assert proof.max_probability_difference < 1e-5
    # Every label that reaches the threshold is predicted, whatever --top-k says.
    command = ["predict", "--json", "--top-k", "1", imported.lock.tag]
    assert main([*command, str(tmp_path / "golden")]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    by_hand = colour_logits(tmp_path)
    assert len(results) == len(by_hand)
    for result in results:
        logits = by_hand[result["file"].removeprefix(f"{tmp_path}/golden/")]
        expected = sigmoid(logits / [1, 8, 1])
        over = {label: p for label, p in zip("rgb", expected, strict=True) if p >= 0.02}
        found = {item["label"]: item["probability"] for item in result["predictions"]}
        assert found == pytest.approx(over, abs=1e-6)
        assert list(found.values()) == sorted(found.values(), reverse=True)


KEEP = """

    kept = np.zeros((4, 4, 3), np.uint8)

    def keep(self, pixels):
        self.kept[:] = pixels
        return self.kept
"""
MIX = """

SHARED = np.zeros((4, 4, 3), np.uint8)


def mix(pixels):
    SHARED[:] = pixels
    for _ in range(200):
        SHARED[:] = 255 - SHARED
    return SHARED.copy()
"""


@pytest.mark.parametrize(
    ("own", "more"),
    [
        ("pixels + np.random.randint(0, 9, (4, 4, 3), np.uint8)", ""),
        ("self.keep(pixels)", KEEP),  # ascontiguousarray returns the array itself
        ("mix(pixels)", MIX),  # right by itself, wrong in several threads
    ],
    ids=["augmentation", "same array", "shared by threads"],
)
def test_a_class_that_gives_another_input_when_it_runs_again_is_refused(
    store: Path, tmp_path: Path, own: str, more: str
) -> None:
    options = colour_options(tmp_path, own=own)
    with (tmp_path / "own.py").open("a") as file:
        file.write(more)

    with pytest.raises(
        ImportRefused, match=r"another input in \d+ of 112 repeated runs.*augmentat"
    ):
        import_quietly(options, tmp_path / "model.lock")
