"""Findings: implausible values are found, and plausible ones pass."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import transforms

from image_classifier.artifact.manifest import Outputs
from importer.errors import ImportRefused
from importer.plausibility import (
    Finding,
    channel_order,
    check_activation,
    check_findings,
    constant_logits,
    implausible_labels,
    input_range,
    mean_std_scale,
    normalised_twice,
    output_kind,
    unstable_network,
)


@pytest.mark.parametrize(
    ("mean", "std", "found"),
    [
        ((104.0, 117.0, 123.0), (1.0, 1.0, 1.0), True),
        ((0.5,), (58.395,), True),
        ((0.5,), (0.0,), True),
        ((0.0,), (1 / 255,), False),
        (None, None, False),
    ],
)
def test_mean_and_std_of_pixels_up_to_255_are_found(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None, found: bool
) -> None:
    assert (mean_std_scale(mean, std) is not None) == found


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Inside(nn.Module):
    """Holds the mean of the pixels as a buffer."""

    mu: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mu", torch.tensor(MEAN).view(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.mu


def with_attribute(value: object) -> nn.Module:
    network = nn.Identity()
    network.__dict__["held"] = value
    return network


@pytest.mark.parametrize(
    ("network", "place"),
    [
        (Inside(), "mu is the mean"),
        (nn.ModuleDict({"first": transforms.Normalize(MEAN, STD)}), "first.mean is the mean"),
        (with_attribute(np.array(STD)), "held is the std"),
        (with_attribute([torch.tensor(number) for number in MEAN]), "held is the mean"),
        (with_attribute(["a", nn.ModuleDict({"b": nn.Identity()}), None]), None),
        (with_attribute([0.0, 0.0, 0.0]), None),
        (nn.BatchNorm2d(3), None),
    ],
)
def test_a_network_that_holds_the_mean_or_std_of_the_preprocessing_is_found(
    network: nn.Module, place: str | None
) -> None:
    finding = normalised_twice(network, MEAN, STD)

    assert (finding is None) == (place is None)
    if finding is not None and place is not None:
        assert finding.message.startswith(f"network: {place} of the preprocessing, ")
    assert normalised_twice(network, (0.0,) * 3, (1.0,) * 3) is None
    assert normalised_twice(network, None, None) is None


@pytest.mark.parametrize(("name", "found"), [("drop_rates", False), ("pixel_mean", True)])
def test_equal_numbers_are_a_mean_by_their_name_only(name: str, found: bool) -> None:
    network = nn.Identity()
    network.__dict__[name] = [0.5] * 3

    assert (normalised_twice(network, [0.5] * 3, [0.5] * 3) is not None) == found


@pytest.mark.filterwarnings("ignore:`torch.jit.script.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script.*:DeprecationWarning")
def test_torchscript_that_holds_the_mean_of_the_preprocessing_is_found() -> None:
    script: Any = torch.jit.script

    assert normalised_twice(script(Inside()), MEAN, STD) is not None


def test_pixels_that_are_scaled_twice_are_found_in_the_inputs() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3))

    assert input_range((pixels / 255 / 255).astype(np.float32)) is not None
    assert input_range(((pixels / 255 - 123.675) / 58.395).astype(np.float32)) is not None
    assert input_range((pixels / 255).astype(np.float32)) is None
    assert input_range(pixels.astype(np.uint8)) is None


class Function(nn.Module):
    """A network that applies a function to its batch (n, 3, 5, 5)."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.function(batch)


INPUTS = np.random.default_rng(1).normal(size=(4, 3, 5, 5)).astype(np.float32)
NORM = nn.BatchNorm2d(3, track_running_stats=False)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        # training=True is the default of functional.dropout
        (lambda batch: functional.dropout(batch.flatten(1), 0.5), "unstable-reference"),
        # Noise in batches only
        (lambda batch: batch.flatten(1) * torch.rand(1) ** (len(batch) > 1), "unstable-reference"),
        (lambda batch: NORM(batch).flatten(1), "batch-dependent"),
        (lambda batch: (batch * 3).flatten(1), None),
    ],
    ids=["dropout", "noise in batches", "training norm", "plain"],
)
def test_a_network_must_repeat_its_answers_again_and_in_batches(
    function: Callable[[torch.Tensor], torch.Tensor], name: str | None
) -> None:
    torch.manual_seed(3)
    network = Function(function).eval()
    with torch.inference_mode():
        single = np.concatenate([network(torch.from_numpy(row[None])).numpy() for row in INPUTS])

    finding = unstable_network(network, INPUTS, single, takes_batches=True)

    assert (finding and finding.name) == name


@pytest.mark.parametrize(
    "logits",
    [
        np.array([[0.1, 2.0, -3.0], [0.1005, 2.0003, -3.0001]], np.float32),
        np.zeros((3, 2), dtype=np.float32),
    ],
)
def test_equal_logits_for_different_images_are_found(logits: np.ndarray) -> None:
    inputs = np.arange(len(logits))[:, np.newaxis]

    assert constant_logits(logits, inputs, Outputs()) is not None
    assert constant_logits(logits, np.zeros_like(inputs), Outputs()) is None  # equal images
    apart = np.array([[0.1, 2.0, -3.0], [0.2, 1.9, -3.0]], np.float32)
    assert constant_logits(apart, inputs[:2], Outputs()) is None
    # A difference of 1e-5 may be large for scores; after a softmax it is nothing.
    assert constant_logits(apart * 1e-4, inputs[:2], Outputs(activation="none")) is None
    assert constant_logits(apart * 1e-4, inputs[:2], Outputs()) is not None


ONE = [[1.5], [-0.2]]
SIGMOID = [[0.667, 0.414, 0.278], [0.2, 0.9, 0.8]]
SOFTMAX = [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]
HALF = np.exp(np.linspace(0, 5, 1000)) / np.exp(np.linspace(0, 5, 1000)).sum()


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        ([[0.7], [0.2]], "unit-interval"),
        ([[0.7], [-0.2]], "logits"),
        (SIGMOID, "unit-interval"),
        (SOFTMAX, "probabilities"),
        ([HALF.astype(np.float16)], "probabilities"),  # rounded, they sum to 1.00003
        (np.log(HALF)[np.newaxis], "log-probabilities"),
        ([[62.5, 37.5], [0.0, 100.0]], "percentages"),
        ([[-0.1, -4.0], [-2.0, -0.5]], "log-sigmoids"),
        ([[-3.0, -4.0], [-2.0, -0.5]], "logits"),
        ([[0.0, 0.0], [0.0, 0.0]], "logits"),
    ],
)
def test_the_kind_of_rows_of_numbers_is_recognised(outputs: list[list[float]], kind: str) -> None:
    assert output_kind(np.array(outputs, dtype=np.float32)) == kind


@pytest.mark.parametrize(
    ("outputs", "activation", "requested", "reason"),
    [
        (ONE, "softmax", None, "one output.*--activation sigmoid.*--activation none"),
        (SIGMOID, "softmax", None, "a sigmoid.*--activation none"),
        ([[62.5, 37.5]], "softmax", None, "are percentages.*--activation none"),
        (np.log(SIGMOID), "softmax", None, "logsigmoid.*sigmoid; .*softmax; .*--activation none"),
        (np.log([[0.5, 0.5]]), "sigmoid", "sigmoid", "are log-prob.*leave --activation sigmoid"),
    ],
)
def test_outputs_that_contradict_the_activation_or_do_not_determine_it_are_refused(
    outputs: list[list[float]], activation: str, requested: str | None, reason: str
) -> None:
    with pytest.raises(ImportRefused, match=reason):
        check_activation(np.array(outputs, dtype=np.float32), activation, requested=requested)


def test_a_requested_activation_is_accepted_unless_it_is_a_second_sigmoid() -> None:
    one, sigmoid = np.array(ONE, dtype=np.float32), np.array(SIGMOID, dtype=np.float32)

    assert check_activation(one, "sigmoid", requested="sigmoid") is None
    assert check_activation(-sigmoid, "softmax", requested="softmax") is None
    assert check_activation(sigmoid, "none", requested="none") is None
    twice = check_activation(sigmoid, "sigmoid", requested="sigmoid")

    assert twice is not None
    assert twice.name == "sigmoid-twice"


@pytest.mark.parametrize(
    ("answers", "targets", "classes", "right"),
    [
        # 3 of 30 with 10 classes is what guessing gives.
        ([0] * 30, [n % 10 for n in range(30)], 10, 3),
        # 5 of 12 with 2 classes: guessing gives 6, and 5 at most has probability 1.4 % at 75 %.
        ([0] * 12, [0] * 5 + [1] * 7, 2, 5),
        # Too few images; half of them right; far more than by guessing; no label.
        ([0, 0, 1], [0, 1, 1], 2, None),
        ([n % 10 for n in range(15)] + [0] * 15, [n % 10 for n in range(30)], 10, None),
        ([1] * 4 + [0] * 26, [0] * 30, 1000, None),
        ([5], [None], 10, None),
    ],
)
def test_an_accuracy_that_guessing_explains_is_found(
    answers: list[int], targets: list[int | None], classes: int, right: int | None
) -> None:
    finding = implausible_labels(np.array(answers), targets, [f"c{n:04}" for n in range(classes)])

    assert (finding and finding.name) == (None if right is None else "chance-accuracy")
    assert finding is None or f"right on {right} of {len(targets)}" in finding.message


def test_a_permutation_is_found_from_several_images_a_class() -> None:
    # The network's class k is label permutation[k]; each class has 4 images.
    permutation = [1, 2, 0, 3]
    answers = [network_class for network_class in range(4) for _ in range(4)]
    targets = [permutation[answer] for answer in answers]

    finding = implausible_labels(np.array(answers), targets, "abcd")

    assert finding is not None
    assert finding.name == "permuted-labels"
    assert "class 0 is 'b', not 'a', class 1 is 'c', not 'b'" in finding.message
    assert "would be on 16" in finding.message


@pytest.mark.parametrize(
    ("right", "images", "found"), [(2, 8, True), (1, 4, True), (3, 8, False), (0, 2, False)]
)
def test_one_image_per_class_shows_a_permutation_that_explains_all_where_few_are_right(
    right: int, images: int, found: bool
) -> None:
    # Of 20 classes; from class `right` on, each has the name of the next.
    moved = [*range(right, images)]
    answers = [*range(right), *moved[1:], *moved[:1]]
    labels = [f"c{n:02}" for n in range(20)]

    finding = implausible_labels(np.array(answers), range(images), labels)

    assert (finding and finding.name) == ("permuted-labels" if found else None)


def test_the_confusions_of_a_weak_network_are_no_permutation() -> None:
    # Every second image of each class is taken for the next class: 20 of 40 right.
    targets = [n % 5 for n in range(40)]
    answers = [(target + n // 5 % 2) % 5 for n, target in enumerate(targets)]

    assert implausible_labels(np.array(answers), targets, "abcde") is None


@pytest.mark.parametrize(
    # Of 16 images, 11 right: 5 that become right prove nothing (1/32), 6 do (1/64).
    ("right_as_given", "found"),
    [(0, True), (10, True), (11, False), (16, False)],
)
def test_swapped_channels_are_found_if_more_answers_would_be_right(
    right_as_given: int, found: bool
) -> None:
    # Blue says the true class of each image; red, which the network reads, only that of some.
    targets = [n % 4 for n in range(16)]
    inputs = np.zeros((16, 1, 1, 3), dtype=np.float32)
    for row, target in enumerate(targets):
        inputs[row, 0, 0, 2] = target
        inputs[row, 0, 0, 0] = target if row < right_as_given else (target + 1) % 4
    network = Function(lambda batch: -(batch[:, 0, 0, :1] - torch.arange(4.0)).abs())
    answers = inputs[:, 0, 0, 0].astype(np.int64)

    finding = channel_order(network, inputs, answers, targets, Outputs())

    assert (finding is not None) == found
    if finding is not None:
        assert f"right on {right_as_given} of 16" in finding.message
        assert "on 16 with red and blue exchanged" in finding.message


def test_a_refusal_names_the_option_that_accepts_the_finding() -> None:
    findings = [
        Finding("constant-logits", "all equal"),
        None,
        Finding("mean-std-scale", "mean 127"),
    ]
    notes: list[str] = []

    with pytest.raises(ImportRefused, match=r"^mean 127; if .*--accept mean-std-scale$"):
        check_findings(*findings, accepted=["constant-logits"], note=notes.append)
    check_findings(*findings, accepted=["constant-logits", "mean-std-scale"], note=notes.append)

    assert notes[0] == "accepted (constant-logits): all equal"
