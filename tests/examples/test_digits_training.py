"""The committed weights of the digits example, and the training that makes them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from examples.digits import train
from examples.digits.dataset import held_out_digits, training_digits
from examples.digits.evaluation import held_out_inputs, predicted_digits
from examples.digits.network import build
from examples.digits.preprocessing import DigitsPreprocessing
from image_classifier.artifact.format import sha256_file
from tests.imports import DIGITS


@pytest.fixture(scope="module")
def uci_digits() -> Any:
    """The data set bundled with scikit-learn."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    return load_digits()


def record_of(folder: Path) -> dict[str, object]:
    record = json.loads((folder / "training.json").read_text())
    assert isinstance(record, dict)
    return record


def trained_network() -> nn.Module:
    """Load the network with the committed weights, in training mode."""
    network = build()
    network.load_state_dict(load_file(DIGITS / "weights.safetensors"), strict=True)
    return network


def test_every_fifth_digit_is_held_out_and_none_of_them_is_trained_on(uci_digits: Any) -> None:
    training, held_out = training_digits(), held_out_digits()

    # 1797 digits; positions 4, 9, ... 1794 are (1794 - 4) / 5 + 1 = 359
    assert (len(training.labels), len(held_out.labels)) == (1438, 359)
    np.testing.assert_array_equal(held_out.images, uci_digits.images[4::5])
    np.testing.assert_array_equal(held_out.labels, uci_digits.target[4::5])
    seen = {image.tobytes() for image in training.images}
    assert not [image for image in held_out.images if image.tobytes() in seen]


def test_the_committed_weights_have_the_accuracy_of_the_record_and_the_readme(
    uci_digits: Any,
) -> None:
    predicted = predicted_digits(trained_network(), held_out_inputs(held_out_digits()))

    correct = predicted == uci_digits.target[4::5]
    record = record_of(DIGITS)
    assert correct.mean() >= 0.985
    assert record["held_out_wrong"] == np.count_nonzero(~correct)
    assert record["held_out_accuracy"] == round(correct.mean(), 4)
    assert record["weights_sha256"] == sha256_file(DIGITS / "weights.safetensors")
    readme = (DIGITS / "README.md").read_text()
    assert f"**{record['held_out_accuracy']:.2%}**".replace("%", " %") in readme
    assert f"{np.count_nonzero(correct)} of the {len(correct)} held-out digits" in readme


@pytest.mark.all  # draws all training inputs
def test_mean_and_std_equal_those_of_the_training_inputs() -> None:
    inputs = train.drawn_inputs(training_digits(), np.random.default_rng(1))

    (mean,), (std,) = DigitsPreprocessing.mean, DigitsPreprocessing.std
    assert (inputs / 255).mean() == pytest.approx(mean, abs=0.01)
    assert (inputs / 255).std() == pytest.approx(std, abs=0.01)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """Restore torch's number of threads, which training sets to one."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.all  # trains three times for one epoch
@pytest.mark.usefixtures("restored_threads")
def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for name, seed in (("first", "3"), ("second", "3"), ("other", "4")):
        train.main(["--epochs", "1", "--seed", seed, "--out", str(tmp_path / name)])

    first, second, other = (
        sha256_file(tmp_path / name / "weights.safetensors")
        for name in ("first", "second", "other")
    )
    assert first == second != other
    assert record_of(tmp_path / "first")["weights_sha256"] == first
    assert (tmp_path / "first" / "labels.txt").read_bytes() == (DIGITS / "labels.txt").read_bytes()
