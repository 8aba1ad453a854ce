"""Implausible imports: each kind is found by two instances, and its healthy neighbours pass."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from importer.errors import ImportRefused
from importer.plausibility import (
    Finding,
    batch_dependent,
    channel_order,
    check_activation,
    check_findings,
    constant_logits,
    implausible_labels,
    input_range,
    mean_std_scale,
    output_kind,
    random_preprocessing,
    rows_to_swap,
    run_batch,
    unstable_reference,
    what_the_proof_rests_on,
)

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def one_hot(answers: list[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[answers] * 5


# ---------------------------------------------------------------- mean, std, inputs


@pytest.mark.parametrize(
    ("mean", "std", "remedy"),
    [
        # The published means × 255, so that the remedy is the published means.
        (
            (123.675, 116.28, 103.53),
            (58.395, 57.12, 57.375),
            "mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]",
        ),
        ((127.5,), (127.5,), "mean [0.5], std [0.5]"),
        ((104.0, 117.0, 123.0), (1.0, 1.0, 1.0), "std [0.003922, 0.003922, 0.003922]"),
        ((0.5,), (58.395,), "mean [0.5], std [0.229]"),
    ],
)
def test_mean_and_std_of_pixels_up_to_255_are_found(
    mean: tuple[float, ...], std: tuple[float, ...], remedy: str
) -> None:
    finding = mean_std_scale(mean, std)

    assert finding is not None
    assert f"divide by 255: {remedy}" in finding.message or remedy in finding.message


@pytest.mark.parametrize(
    ("mean", "std"),
    [IMAGENET, ((0.0,), (1.0,)), ((0.0,), (1 / 255,)), ((0.5,), (0.5,)), (None, None)],
)
def test_usual_mean_and_std_pass(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> None:
    assert mean_std_scale(mean, std) is None


@pytest.mark.parametrize(
    "scale",
    [
        lambda pixels: pixels / 255 / 255,
        lambda pixels: (pixels / 255 - 123.675) / 58.395,
    ],
    ids=["divided twice", "mean of 0 to 255"],
)
def test_pixels_that_are_scaled_twice_are_found_in_the_inputs(
    scale: Callable[[np.ndarray], np.ndarray],
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3))

    assert input_range(scale(pixels).astype(np.float32)) is not None
    assert input_range((pixels / 255).astype(np.float32)) is None
    assert input_range(pixels.astype(np.uint8)) is None


@pytest.mark.parametrize("noise", [1, 0.001])
def test_inputs_that_differ_when_made_again_are_named(noise: float) -> None:
    first = np.zeros((3, 2, 2, 1), dtype=np.float32)
    second = first.copy()
    second[1, 0, 0, 0] = noise

    finding = random_preprocessing(["a", "b", "c"], first, second)

    assert finding is not None
    assert "on 1 of 3 golden images, b the first" in finding.message
    assert random_preprocessing(["a", "b", "c"], first, first.copy()) is None


# ---------------------------------------------------------------- the network


class Dropout(nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return functional.dropout(batch.flatten(1), 0.5)  # training=True is its default


class StochasticDepth(nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.flatten(1) * (torch.rand(1) > 0.5)


class TrainingNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.norm(batch).flatten(1)


class BatchMean(nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return (batch - batch.mean(dim=0)).flatten(1)


class Plain(nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return (batch * 3).flatten(1)


INPUTS = np.random.default_rng(1).normal(size=(4, 3, 5, 5)).astype(np.float32)


def alone(network: nn.Module) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate(
            [network.eval()(torch.from_numpy(image[None])).numpy() for image in INPUTS]
        )


@pytest.mark.parametrize("network", [Dropout(), StochasticDepth()])
def test_a_network_that_answers_differently_each_time_is_found(network: nn.Module) -> None:
    torch.manual_seed(3)

    finding = unstable_reference(alone(network), alone(network))

    assert finding is not None
    assert "answers differently each time" in finding.message


@pytest.mark.parametrize("network", [TrainingNorm(), BatchMean()])
def test_a_network_that_mixes_the_images_of_a_batch_is_found(network: nn.Module) -> None:
    assert unstable_reference(alone(network), alone(network)) is None

    finding = batch_dependent(alone(network), run_batch(network, INPUTS))

    assert finding is not None
    assert "depends on the other images of the batch" in finding.message


def test_a_network_that_repeats_itself_passes_alone_and_in_batches() -> None:
    logits = alone(Plain())

    assert unstable_reference(logits, alone(Plain())) is None
    assert batch_dependent(logits, run_batch(Plain(), INPUTS)) is None


def test_a_network_that_takes_single_images_only_is_not_accused() -> None:
    single = nn.Flatten(0)  # (1, 3, 5, 5) and (4, 3, 5, 5) become one dimension

    assert run_batch(single, INPUTS) is None
    assert batch_dependent(alone(Plain()), None) is None


@pytest.mark.parametrize(
    "logits",
    [
        np.tile(np.float32([0.1, 2.0, -3.0]), (4, 1)),
        np.float32([[0.1, 2.0, -3.0], [0.1005, 2.0003, -3.0001]]),
        np.zeros((3, 2), dtype=np.float32),
    ],
)
def test_equal_logits_for_different_images_are_found(logits: np.ndarray) -> None:
    inputs = np.arange(len(logits))[:, np.newaxis]

    assert constant_logits(logits, inputs) is not None
    assert constant_logits(logits, np.zeros_like(inputs)) is None  # copies of one image
    assert constant_logits(np.float32([[0.1, 2.0, -3.0], [0.2, 1.9, -3.0]]), inputs[:2]) is None


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        ([[1.5], [-0.2]], "one"),
        ([[0.7], [0.2]], "unit-interval"),
        ([[0.667, 0.414, 0.278], [0.2, 0.9, 0.8]], "unit-interval"),
        ([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], "probabilities"),
        ([[-0.6931472, -0.6931472], [-0.1053605, -2.3025851]], "log-probabilities"),
        ([[-3.0, -4.0], [-2.0, -0.5]], "logits"),
        ([[0.0, 0.0], [0.0, 0.0]], "logits"),
    ],
)
def test_what_the_outputs_look_like(outputs: list[list[float]], kind: str) -> None:
    assert output_kind(np.array(outputs, dtype=np.float32)) == kind


@pytest.mark.parametrize(
    ("outputs", "activation", "asked", "reason"),
    [
        (
            [[2.5], [-1.0]],
            "softmax",
            None,
            "one output.*--activation sigmoid.*--activation none",
        ),
        ([[0.7, 0.6], [0.1, 0.2]], "softmax", None, "a sigmoid.*--activation none"),
        ([[0.7, 0.3], [0.1, 0.9]], "softmax", "softmax", "are probabilities.*--activation none"),
    ],
)
def test_outputs_whose_meaning_is_open_or_contradicts_the_activation_are_refused(
    outputs: list[list[float]], activation: str, asked: str | None, reason: str
) -> None:
    kind = output_kind(np.array(outputs, dtype=np.float32))

    with pytest.raises(ImportRefused, match=reason):
        check_activation(kind, activation, asked=asked)


def test_outputs_are_taken_as_the_operator_says() -> None:
    one_logit = np.array([[2.5], [-1.0]], dtype=np.float32)
    shares = np.array([[0.7, 0.6], [0.1, 0.2]], dtype=np.float32)

    check_activation(output_kind(one_logit), "sigmoid", asked="sigmoid")
    check_activation(output_kind(shares), "none", asked="none")


# ---------------------------------------------------------------- labels and channels


@pytest.mark.parametrize(
    ("answers", "targets", "classes"),
    [
        # 3 of 30 with 10 classes is what guessing gives.
        ([0] * 30, [n % 10 for n in range(30)], 10),
        # 5 of 12 with 2 classes: guessing gives 6, and 5 at most has probability 1.4 % at 75 %.
        ([0] * 12, [0] * 5 + [1] * 7, 2),
    ],
)
def test_as_many_right_as_by_guessing_is_found(
    answers: list[int], targets: list[int], classes: int
) -> None:
    finding = implausible_labels(
        one_hot(answers, classes), targets, [f"c{n}" for n in range(classes)]
    )

    assert finding is not None
    assert finding.name == "chance-accuracy"
    right = sum(a == t for a, t in zip(answers, targets, strict=True))
    assert f"right on {right} of {len(targets)}" in finding.message


@pytest.mark.parametrize(
    ("answers", "targets", "classes"),
    [
        (list(range(10)), list(range(10)), 10),
        ([0, 1], [0, 1], 2),  # too few images to say anything
        ([0, 0, 1], [0, 1, 1], 2),
        ([n % 10 for n in range(15)] + [0] * 15, [n % 10 for n in range(30)], 10),  # 16 of 30
        ([1] * 4 + [0] * 26, [0] * 30, 1000),
        ([5], [None], 10),
    ],
)
def test_a_usual_accuracy_passes(
    answers: list[int], targets: list[int | None], classes: int
) -> None:
    labels = [f"c{n:04}" for n in range(classes)]

    assert implausible_labels(one_hot(answers, classes), targets, labels) is None


@pytest.mark.parametrize(
    ("permutation", "words"),
    [
        ([1, 2, 0, 3], "class 0 is 'b', not 'a', class 1 is 'c', not 'b'"),
        ([0, 3, 2, 1], "class 1 is 'd', not 'b', class 3 is 'b', not 'd'"),
    ],
)
def test_a_permutation_is_found_from_several_images_a_class(
    permutation: list[int], words: str
) -> None:
    # The network's class k is label permutation[k]; each class has 4 images.
    answers = [network_class for network_class in range(4) for _ in range(4)]
    targets = [permutation[answer] for answer in answers]

    finding = implausible_labels(one_hot(answers, 4), targets, "abcd")

    assert finding is not None
    assert finding.name == "permuted-labels"
    assert words in finding.message
    assert "would be on 16" in finding.message


@pytest.mark.parametrize(
    ("labels", "trained", "words"),
    [
        (
            ["wolf", "ant", "cow", "bee", "dog", "elk", "fox", "hen"],
            ["ant", "bee", "cow", "dog", "elk", "fox", "hen", "wolf"],
            "sorted as text, as ImageFolder",
        ),
        (
            ["ant", "Bee", "cow", "Dog", "elk", "Fox", "hen", "wolf"],
            ["Bee", "Dog", "Fox", "ant", "cow", "elk", "hen", "wolf"],
            "sorted as text, as ImageFolder",
        ),
        (
            ["ant", "bee", "cow", "dog", "elk", "fox", "hen", "wolf"],
            ["wolf", "hen", "fox", "elk", "dog", "cow", "bee", "ant"],
            "reversed: 'wolf', 'hen'",
        ),
        (
            ["ant", "bee", "cow", "dog", "elk", "fox", "hen", "wolf"],
            ["wolf", "ant", "bee", "cow", "dog", "elk", "fox", "hen"],
            "shifted by one (the first label is class 1)",
        ),
    ],
)
def test_a_usual_order_is_found_from_one_image_a_class(
    labels: list[str], trained: list[str], words: str
) -> None:
    targets = list(range(8))
    answers = [trained.index(label) for label in labels]

    finding = implausible_labels(one_hot(answers, 8), targets, labels)

    assert finding is not None
    assert finding.name == "permuted-labels"
    assert words in finding.message


def test_confusions_of_a_weak_network_are_no_permutation() -> None:
    # Every second image of each class is taken for the next class: 20 of 40 right.
    targets = [n % 5 for n in range(40)]
    answers = [(target + n // 5 % 2) % 5 for n, target in enumerate(targets)]

    assert implausible_labels(one_hot(answers, 5), targets, "abcde") is None


@pytest.mark.parametrize("right_as_given", [0, 3])
def test_swapped_channels_that_are_right_more_often_are_found(right_as_given: int) -> None:
    targets = [n % 4 for n in range(16)]
    wrong = [(target + 1) % 4 for target in targets]
    given = one_hot(targets[:right_as_given] + wrong[right_as_given:], 4)

    finding = channel_order(given, one_hot(targets, 4), targets)

    assert finding is not None
    assert f"right on {right_as_given} of 16" in finding.message
    assert "on 16 with red and blue exchanged" in finding.message
    assert channel_order(given, given, targets) is None
    assert channel_order(given, np.full_like(given, np.nan), targets) is None


def test_channels_are_swapped_only_where_many_answers_are_wrong() -> None:
    targets = [n % 4 for n in range(20)]
    wrong = [(target + 1) % 4 for target in targets]

    assert rows_to_swap(one_hot(targets, 4), targets) == []
    assert rows_to_swap(one_hot(wrong[:4] + targets[4:], 4), targets) == []
    assert rows_to_swap(one_hot(wrong[:8] + targets[8:], 4), targets) == list(range(20))


# ---------------------------------------------------------------- what is said of it


def test_a_finding_is_refused_with_the_option_that_accepts_it() -> None:
    findings = [
        Finding(name="constant-logits", message="all equal"),
        None,
        Finding(name="mean-std-scale", message="mean 127"),
    ]

    with pytest.raises(ImportRefused, match=r"^mean 127; if that .*--accept mean-std-scale$"):
        check_findings(findings, ["constant-logits"])
    notes = check_findings(findings, ["constant-logits", "mean-std-scale"])

    assert notes[0] == "accepted (constant-logits): all equal"


@pytest.mark.parametrize(
    ("targets", "given", "sentences"),
    [
        ([0, 1, 2], True, ["3 of 3 labelled images right", "numbers are reproduced on 3"]),
        ([0, None, 1], False, ["1 of 2 labelled images right", "no --reference: that the"]),
        ([None] * 3, False, ["no golden image is labelled", "is unproven"]),
    ],
)
def test_the_summary_says_what_the_proof_rests_on(
    targets: list[int | None], given: bool, sentences: list[str]
) -> None:
    text = " / ".join(
        what_the_proof_rests_on(one_hot([0, 1, 2], 3), targets, reference_given=given)
    )

    assert all(sentence in text for sentence in sentences)
