"""Networks with random weights from a seed, whose answers differ from image to image."""

from pathlib import Path

import numpy as np

from tools.benchmarks.workload import Array

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPEC = {"resize": {"size": 256}, "crop": 224, "mean": MEAN, "std": STD}
"""torchvision.transforms._presets.ImageClassification."""
SEED = 20261101
CLASSES = 1000
LOUD_CLASSES = 12
RESIDUAL_STRENGTH = 0.1
NEAR_TIE = {"fp32": 1e-4, "bf16": 0.02, "int8": 0.02}
"""Classes within this part of the spread of an image's logits are all right: the order of
floating-point sums depends on batch size and streams."""


def near_best(logits: Array, near_tie: float) -> tuple[int, ...]:
    """Return the best class and those within a part of the logits' spread, best first."""
    least = logits.max() - near_tie * (logits.max() - logits.min())
    return tuple(int(index) for index in np.argsort(-logits) if logits[index] >= least)


def save_seeded_weights(architecture: str, pixels: Array, path: Path) -> None:
    """Write random weights whose answers differ from image to image.

    Plain random weights give one class for all images, so that swapped answers would pass. Here
    batch norms take their statistics from the images, and the last layer maps the two main
    directions of the images' features to 12 of the classes.

    Args:
        architecture: A function of `torchvision.models`.
        pixels: Inputs of the images, uint8 (n, H, W, 3).
        path: Of the safetensors file to write.
    """
    import torch
    import torchvision
    from safetensors.torch import save_file

    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255  # (n, 3, H, W)
    inputs = (inputs - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.manual_seed(SEED)
    network = getattr(torchvision.models, architecture)(weights=None).eval()
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.inference_mode():
        for block in network.modules():
            # 50 random layers at full strength would amplify rounding errors until fp32 and int8
            # give different classes.
            if isinstance(block, torchvision.models.resnet.Bottleneck):
                block.bn3.weight.fill_(RESIDUAL_STRENGTH)
        for norm in norms:
            norm.momentum = None  # cumulative: the average over all batches
            norm.train()
        for batch in torch.split(inputs, 16) if norms else ():
            network(batch)
        network.eval()

        *_, last = (module for module in network.modules() if isinstance(module, torch.nn.Linear))
        seen: list[torch.Tensor] = []
        last.register_forward_hook(lambda _module, features, _logits: seen.append(features[0]))
        for batch in torch.split(inputs, 16):
            network(batch)
        features = torch.cat(seen)  # (n, features)
        mean = features.mean(dim=0)
        axes = torch.linalg.svd(features - mean, full_matrices=False)[2][:2]  # (2, features)
        spread = ((features - mean) @ axes.T).std(dim=0)
        # 12 loud classes on a circle: for most images the best is well ahead of the second.
        angles = torch.arange(CLASSES) * (2 * torch.pi / LOUD_CLASSES)
        classes = 4 * torch.stack([angles.cos(), angles.sin()], dim=1)  # (classes, 2)
        classes[LOUD_CLASSES:] *= 0.5
        last.weight.copy_(classes @ (axes / spread[:, None]))
        last.bias.copy_(-last.weight @ mean)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
