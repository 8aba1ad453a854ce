"""What an import frees is free."""

import subprocess
import sys

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
