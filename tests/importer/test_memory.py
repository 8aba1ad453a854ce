"""What an import frees is free."""

import subprocess
import sys
from pathlib import Path

from tests.imports import ROOT

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from importer.process import return_freed_memory

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

if sys.argv[1] == "returned":
    return_freed_memory()
np.ones(31 << 17)  # freeing 31 MiB raises glibc's threshold: the next blocks go to the heap
blocks, pins = [], []
for _ in range(40):
    blocks.append(np.ones(1 << 20))  # 8 MiB
    pins.append(np.ones(1 << 10))  # small, stays: the heap cannot shrink below it
before = resident_mb()
del blocks
print(before - resident_mb())
"""


def freed_mb(way: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, way], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_large_blocks_go_back_to_the_system_between_small_ones_that_stay() -> None:
    # 40 blocks of 8 MiB are 335 MB.
    assert freed_mb("returned") > 300
    assert freed_mb("kept") < 100


EXPORT = """
import gc
import sys
from pathlib import Path
import numpy as np
import torch
from torch import nn
from image_classifier.artifact.manifest import InputSpec
from importer.export import export_onnx, free_weights
from importer.pixels_to_logits import PixelsToLogits
from importer.process import return_freed_memory

def anonymous_mb():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1e3

return_freed_memory()
spec = InputSpec(shape=(4, 4, 3), dtype="uint8", mean=(0.5,) * 3, std=(0.5,) * 3)
wide = nn.Conv2d(2048, 4096, 3)  # 302 MB; the exporter makes another of it and the normalisation
layers = nn.Conv2d(3, 2048, 1), wide, nn.BatchNorm2d(4096), nn.Flatten(), nn.Linear(16384, 2)
network = PixelsToLogits(nn.Sequential(*layers), spec).eval().requires_grad_(False)
del wide, layers
before = anonymous_mb()
export_onnx(network, np.zeros((2, 4, 4, 3), np.uint8), Path(sys.argv[1]) / "network.onnx")
free_weights(network)
del network
gc.collect()
print(before - anonymous_mb())
"""


def test_an_export_leaves_no_weights_in_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    # Of 302 MB, about 115 go to what the exporter imports.
    assert float(done.stdout.splitlines()[-1]) > 0
