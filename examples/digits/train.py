"""Training of the digits network: `python -m examples.digits.train`."""

import argparse
import datetime
import hashlib
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from examples.digits.dataset import SPLIT, Digits, held_out_digits, training_digits
from examples.digits.evaluation import held_out_inputs, normalised, predicted_digits
from examples.digits.network import CLASSES, build
from examples.digits.preprocessing import DigitsPreprocessing
from examples.digits.rendering import grey_picture, ink_mask, random_layout

BATCH_SIZE = 64
PEAK_LEARNING_RATE = 0.005
LOSS = nn.CrossEntropyLoss(label_smoothing=0.05)
PACKAGES = ("torch", "numpy", "pillow", "scikit-learn", "safetensors")


def main(arguments: Sequence[str]) -> None:
    """Train, evaluate on the held-out digits, and write weights, labels and the training record."""
    parser = argparse.ArgumentParser(prog="python -m examples.digits.train", description=__doc__)
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder to write to"
    )
    options = parser.parse_args(arguments)
    began = time.monotonic()
    network = trained_network(training_digits(), epochs=options.epochs, seed=options.seed)
    training_s = round(time.monotonic() - began, 1)
    held_out = held_out_digits()
    correct = predicted_digits(network, held_out_inputs(held_out)) == held_out.labels

    options.out.mkdir(parents=True, exist_ok=True)
    weights = options.out / "weights.safetensors"
    save_file(network.state_dict(), weights)
    (options.out / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(CLASSES)))
    record = {
        "command": shlex.join(["python", "-m", "examples.digits.train", *arguments]),
        "seed": options.seed,
        "epochs": options.epochs,
        "training_s": training_s,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "split": SPLIT,
        "held_out": len(correct),
        "held_out_wrong": int((~correct).sum()),
        "held_out_accuracy": round(float(correct.mean()), 4),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
    }
    (options.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"held-out accuracy: {correct.mean():.2%} of {len(correct)} digits")


def trained_network(digits: Digits, *, epochs: int, seed: int) -> nn.Module:
    """Train a new network on the digits.

    The same arguments give the same weights, bit for bit, on the same machine and versions.

    Args:
        digits: Training data.
        epochs: Passes over the digits; each draws them anew, see `drawn_inputs`.
        seed: Seed of the initial weights, the order, the drawing and the dropout.
    """
    torch.set_num_threads(1)  # more threads change the order of sums, and with it the last bits
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    network = build().train()
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        PEAK_LEARNING_RATE,
        total_steps=epochs * math.ceil(len(digits.labels) / BATCH_SIZE),
    )
    for _ in (progress := tqdm(range(epochs), desc="training", unit="epoch")):
        inputs = normalised(drawn_inputs(digits, generator))
        for batch in torch.split(torch.randperm(len(inputs)), BATCH_SIZE):
            optimiser.zero_grad()
            loss = LOSS(network(inputs[batch]), torch.from_numpy(digits.labels)[batch])
            loss.backward()
            optimiser.step()
            schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    return network


def drawn_inputs(digits: Digits, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw every digit with a random position, size, rotation and contrast, and preprocess it.

    Returns:
        uint8 (n, 32, 32, 1).
    """
    preprocessing = DigitsPreprocessing()
    inputs = []
    for digit in digits.images:
        mask = ink_mask(digit, random_layout(generator))
        ink, paper = int(generator.integers(0, 100)), int(generator.integers(180, 256))
        inputs.append(preprocessing.to_input(grey_picture(mask, ink=ink, paper=paper)))
    return np.stack(inputs)


if __name__ == "__main__":
    main(sys.argv[1:])
