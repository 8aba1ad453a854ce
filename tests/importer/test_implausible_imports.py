"""Imports that make no sense are refused before anything is written, and served if accepted."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_classifier.artifact.store import open_in_store
from image_classifier.inference.predictions import Prediction, top_k_predictions
from importer.errors import ImportRefused
from importer.progress import Progress
from tests.importer.colours import colour_logits, colour_options
from tests.imports import import_quietly

MIXES_THE_BATCH = "logits - logits.mean(dim=0, keepdim=True) / 2"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"network": "logits + torch.rand(3)"}, "--accept unstable-reference"),
        ({"network": MIXES_THE_BATCH}, "--accept batch-dependent"),
        # Image by image it is as good as any: only in company do its answers change.
        (
            {"network": MIXES_THE_BATCH, "accept": ("batch-dependent",)},
            "onnxruntime-fp32: in batches of 2: a logit is off by",
        ),
        ({"network": "logits * 0 + 2 * self.linear.weight[:, 0]"}, "--accept constant-logits"),
        ({"network": "logits.softmax(1)"}, "are probabilities, expected logits; leave its softmax"),
        ({"labels": "brg"}, "--accept permuted-labels"),
        # Both mistakes explain the answers, so both are named.
        (
            {"own": "pixels[..., ::-1]"},
            r"BGR .* --accept channel-order; .* in another order .* --accept permuted-labels",
        ),
        (
            {"own": "pixels + np.random.randint(0, 9, (4, 4, 3), np.uint8)"},
            "preprocessing: to_input gives another input when",
        ),
        (
            {"own": "pixels + (np.random.rand() < 0.03)"},
            "to_input (draws random numbers, and )?gives another input",
        ),
        ({"network": "logits + self.shift"}, "network: shift is not in the weights and differs"),
        (
            {"network": "nn.functional.softplus(logits) + 1"},
            "ends in softplus, so its outputs are no",
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


def test_a_second_import_is_the_same_artifact_measured_anew(store: Path, tmp_path: Path) -> None:
    first, second = (
        import_quietly(colour_options(tmp_path), tmp_path / "model.lock") for _ in range(2)
    )

    assert (first.known, second.known, second.lock) == (False, True, first.lock)
    assert first.record.attempts != second.record.attempts  # no two measurements are equal
    assert open_in_store(first.lock.tag).record == second.record


def test_a_sound_import_and_an_accepted_one_say_what_they_rest_on(
    store: Path, tmp_path: Path
) -> None:
    sound = import_quietly(colour_options(tmp_path), tmp_path / "model.lock")
    accepted = import_quietly(
        colour_options(tmp_path, labels="brg", accept="permuted-labels"), tmp_path / "model.lock"
    )

    assert sound.proof[0] == "reference: 12 of 12 labelled images right (100.0%)"
    assert re.match(
        r"no --reference: that .* probabilities \(softmax\) .* is unproven", sound.proof[1]
    )
    assert accepted.proof[0] == "reference: 0 of 12 labelled images right (0.0%)"
    assert accepted.proof[-1] == "accepted without proof: permuted-labels"


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
    (tmp_path / "reference.npz").touch()
    given = colour_options(tmp_path, activation=activation, reference=tmp_path / "reference.npz")
    logits = colour_logits(tmp_path)
    rows = numbers(np.stack(list(logits.values())))
    arrays: dict[str, Any] = {"files": list(logits), kind: rows}
    np.savez(tmp_path / "reference.npz", **arrays)

    imported = import_quietly(given, tmp_path / "model.lock")

    assert imported.proof[1] == "the notebook's numbers are reproduced on 12 golden images"
    assert imported.evidence.reference == "given"


def test_a_sigmoid_is_certified_label_by_label_as_it_is_served(store: Path, tmp_path: Path) -> None:
    given = colour_options(tmp_path, activation="sigmoid", threshold=0.02)

    imported = import_quietly(given, tmp_path / "model.lock")

    (engine,) = imported.evidence.engines
    proof = engine.certificate
    assert (proof.label_agreement, proof.top1_agreement) == (1, None)
    assert proof.max_probability_difference is not None
    assert proof.max_probability_difference < 1e-5
    artifact = open_in_store(imported.lock.tag)
    outputs, by_hand = artifact.manifest.outputs, colour_logits(tmp_path)
    for entry, logits in zip(artifact.manifest.golden, artifact.reference()[0], strict=True):
        served = top_k_predictions(logits, artifact.labels(), 3, outputs)
        expected = sigmoid(by_hand[entry.name])
        over = {label for label, number in zip("rgb", expected, strict=True) if number >= 0.02}
        assert {one.label for one in served} == over
        assert [one.probability for one in served if isinstance(one, Prediction)] == pytest.approx(
            sorted(expected[expected >= 0.02], reverse=True), abs=1e-6
        )


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
    (tmp_path / "reference.npz").touch()
    given = colour_options(tmp_path, activation=activation, reference=tmp_path / "reference.npz")
    files = list(colour_logits(tmp_path))
    np.savez(tmp_path / "reference.npz", files=files, probabilities=[rows] * len(files))

    with pytest.raises(ImportRefused, match=reason):
        import_quietly(given, tmp_path / "model.lock")


def test_a_class_that_returns_one_array_for_all_images_is_refused(
    store: Path, tmp_path: Path
) -> None:
    given = colour_options(tmp_path)
    source = (tmp_path / "own.py").read_text()
    changed = source.replace("return np.ascontiguousarray(pixels)", "return self.keep(pixels)")
    keep = (
        "\n    kept = np.zeros((4, 4, 3), np.uint8)\n\n    def keep(self, pixels):\n"
        "        self.kept[:] = pixels\n        return self.kept\n"
    )
    assert changed != source
    (tmp_path / "own.py").write_text(changed + keep)

    with pytest.raises(ImportRefused, match="to_input returns the same array at each call"):
        import_quietly(given, tmp_path / "model.lock")


def test_random_numbers_that_change_nothing_are_noted(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = colour_options(tmp_path, own="pixels if np.random.rand() < 1 else 255 - pixels")

    import_quietly(given, tmp_path / "model.lock", Progress(quiet=False))

    assert "draws random numbers that changed none of 300 runs" in capfd.readouterr().err
