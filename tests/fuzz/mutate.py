"""Mutation fuzzing for a stated time: `python -m tests.fuzz.mutate --minutes 10`.

A worker process decodes mutated files; each is written down before it is tried, so that the
one that kills the process is known. Exit status 1 and a file in --findings mean a finding.
"""

import argparse
import faulthandler
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

from tests.fuzz.mutations import mutated, seeds
from tests.fuzz.target import run_once

MAX_GROWTH_BYTES = 300_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.findings.mkdir(parents=True, exist_ok=True)
    current = options.findings / "current"
    if options.worker:
        return work(options.minutes * 60, options.seed, current)
    ran = subprocess.run([sys.executable, "-m", "tests.fuzz.mutate", *sys.argv[1:], "--worker"])
    if ran.returncode == 0:
        current.unlink()
        return 0
    kept = current.rename(options.findings / f"finding-{time.time_ns()}")
    sys.stdout.write(f"worker ended with {ran.returncode}; the input is {kept}\n")
    return 1


def work(seconds: float, seed: int, current: Path) -> int:
    """Try mutated seeds until the time is over. Lets a finding escape."""
    faulthandler.enable()
    warnings.simplefilter("ignore")  # Pillow's remarks on damaged files
    chance, pool = random.Random(seed), seeds()
    end_s, executions, good = time.monotonic() + seconds, 0, 0
    first_bytes = resident_bytes()
    while time.monotonic() < end_s:
        data = mutated(chance.choice(pool), chance, pool)
        current.write_bytes(data)
        good += run_once(data)
        executions += 1
    growth_bytes = resident_bytes() - first_bytes
    sys.stdout.write(
        f"{executions} executions, {good} good pictures, grown by {growth_bytes >> 20} MiB\n"
    )
    if growth_bytes > MAX_GROWTH_BYTES:
        raise MemoryError(f"the process grew by {growth_bytes} bytes")
    return 0


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    sys.exit(main())
