"""Memory that an import frees returns to the system."""

from pathlib import Path

import pytest

from tests.programs import run_python

FREES_BLOCKS = """
from pathlib import Path
import numpy as np
from importer.process import return_freed_memory

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

return_freed_memory()
np.ones(31 << 17)  # freeing 31 MiB raises glibc's threshold: the next blocks go to the heap
blocks, pins = [], []
for _ in range(40):
    blocks.append(np.ones(1 << 20))  # 8 MiB
    pins.append(np.ones(1 << 10))  # the heap cannot shrink below it
before = resident_mb()
del blocks
print(before - resident_mb())
"""
EXPORTS = """
import gc
import sys
from pathlib import Path
import numpy as np
from torch import nn
from preprocessing import InputSpec
from importer.export import export_onnx
from importer.pixels_to_logits import PixelsToLogits
from importer.process import return_freed_memory

def anonymous_mb():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1e3

def freed_by_export(width):
    spec = InputSpec(shape=(4, 4, 3), dtype="uint8", mean=(0.5,) * 3, std=(0.5,) * 3)
    wide = nn.Conv2d(width, 2 * width, 3)  # the exporter makes another of it and the normalisation
    layers = nn.Conv2d(3, width, 1), wide, nn.BatchNorm2d(2 * width), nn.Flatten()
    network = PixelsToLogits(nn.Sequential(*layers, nn.Linear(8 * width, 2)), spec)
    network.eval().requires_grad_(False)
    before = anonymous_mb()
    export_onnx(network, np.zeros((2, 4, 4, 3), np.uint8), Path(sys.argv[1]) / f"{width}.onnx")
    del network, wide, layers
    gc.collect()
    return before - anonymous_mb()

return_freed_memory()
freed_by_export(8)  # loads what the exporter needs
print(freed_by_export(1024))
"""


def freed_mb(program: str, *arguments: str) -> float:
    done = run_python(program, *arguments)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1])


def test_large_blocks_return_to_the_system_though_small_ones_between_them_stay() -> None:
    # 40 blocks of 8 MiB are 335 MB; without a fixed threshold less than 100 MB return.
    assert freed_mb(FREES_BLOCKS) > 300


@pytest.mark.slow
def test_an_export_frees_all_weights(tmp_path: Path) -> None:
    assert freed_mb(EXPORTS, str(tmp_path)) > 70  # of 75.5 MB
