"""Inputs in memory that processes share."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from image_classifier.inference.shared_inputs import Place, SharedInputs, SharedInputsReader
from tests.imports import ROOT
from tests.inference.fakes import INPUT_SPEC as SPEC

HOLDER = """
import sys
import numpy as np
from image_classifier.inference.shared_inputs import SharedInputs
from tests.inference.fakes import INPUT_SPEC

shared = SharedInputs(INPUT_SPEC, calls=1, max_batch_size=2)
with shared.holding(np.full((2, 2, 3, 1), int(sys.argv[1]), np.uint8)) as place:
    print(*place, flush=True)
    sys.stdin.read()
"""


def batch(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)[:, None, None, None] + np.zeros((1, *SPEC.shape), np.uint8)


def holder(value: int) -> tuple[subprocess.Popen[str], Place]:
    """Start a process that shares two inputs; return it and their place."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(value)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Place(*map(int, process.stdout.readline().split()))


def mapped_memories() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:inputs")


def test_threads_can_open_many_memories_concurrently() -> None:
    memories = [SharedInputs(SPEC, calls=1, max_batch_size=1) for _ in range(200)]
    reader = SharedInputsReader(SPEC)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            opened = threads.map(lambda memory: reader.open(*memory.address), memories)
            assert {slots.shape for slots in opened} == {(1, *SPEC.shape)}
    finally:
        sys.setswitchinterval(interval)


def test_the_memory_of_a_killed_process_is_freed() -> None:
    reader = SharedInputsReader(SPEC)
    killed, place = holder(7)
    before = mapped_memories()
    assert np.array_equal(reader.read(place), batch(7, 7))

    killed.kill()
    killed.communicate()
    running, place_of_running = holder(8)
    try:
        assert np.array_equal(reader.read(place_of_running), batch(8, 8))
        with pytest.raises(FileNotFoundError):
            reader.read(place)
    finally:
        running.communicate()
    assert mapped_memories() == before + 1


def test_batches_in_flight_have_slots_of_their_own() -> None:
    shared = SharedInputs(SPEC, calls=2, max_batch_size=3)
    reader = SharedInputsReader(SPEC)

    with shared.holding(batch(1, 2)) as first, shared.holding(batch(3, 4, 5)) as second:
        assert shared.full
        assert np.array_equal(reader.read(first), batch(1, 2))
        assert np.array_equal(reader.read(second), batch(3, 4, 5))
    assert not shared.full


def test_a_reused_address_is_mapped_again() -> None:
    reader = SharedInputsReader(SPEC)
    shared = SharedInputs(SPEC, calls=1, max_batch_size=1)
    address = shared.address
    with shared.holding(batch(1)) as place:
        assert np.array_equal(reader.read(place), batch(1))

    del shared
    other = SharedInputs(SPEC, calls=1, max_batch_size=1)
    assert other.address == address
    with other.holding(batch(2)) as place:
        assert np.array_equal(reader.read(place), batch(2))
