"""Inputs in memory that processes share."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from image_classifier.inference.shared_inputs import SharedInputs, SharedInputsReader
from tests.imports import ROOT
from tests.inference.fakes import INPUT_SPEC as SPEC

HOLDER = """
import sys
import numpy as np
from image_classifier.inference.shared_inputs import SharedInputs
from tests.inference.fakes import INPUT_SPEC

shared = SharedInputs(INPUT_SPEC, calls=1, max_batch_size=2)
with shared.holding(np.full((2, 2, 3, 1), int(sys.argv[1]), np.uint8)):
    print(*shared.address, flush=True)
    sys.stdin.read()
"""


def batch(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)[:, None, None, None] + np.zeros((1, *SPEC.shape), np.uint8)


def holder(value: int) -> tuple[subprocess.Popen[str], np.ndarray]:
    """Start a process that shares two inputs; return it and their places."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(value)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = [int(number) for number in process.stdout.readline().split()]
    return process, np.array([[*address, 0], [*address, 1]])


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


def test_the_inputs_of_a_killed_process_are_zero_and_its_memory_is_freed() -> None:
    reader = SharedInputsReader(SPEC)
    killed, places = holder(7)
    before = mapped_memories()
    assert np.array_equal(reader.read(places), batch(7, 7))

    killed.kill()
    killed.communicate()
    running, places_of_running = holder(8)
    try:
        assert np.array_equal(reader.read(places_of_running), batch(8, 8))
        with pytest.raises(FileNotFoundError):
            reader.open(*places[0, :2])
        mixed = reader.read(np.concatenate([places[:1], places_of_running[1:]]))
        assert np.array_equal(mixed, batch(0, 8))
        assert np.array_equal(reader.read(places), batch(0, 0))
    finally:
        running.communicate()
    assert mapped_memories() == before + 1


def test_batches_in_flight_have_slots_of_their_own_and_are_read_in_any_order() -> None:
    shared = SharedInputs(SPEC, calls=2, max_batch_size=3)
    reader = SharedInputsReader(SPEC)

    with shared.holding(batch(1, 2)) as first, shared.holding(batch(3, 4, 5)) as second:
        assert shared.full
        mixed = np.concatenate([second[:2], first])
        assert np.array_equal(reader.read(mixed), batch(3, 4, 1, 2))
        assert np.array_equal(reader.read(second), batch(3, 4, 5))
    assert not shared.full


def test_a_reused_address_is_mapped_again() -> None:
    reader = SharedInputsReader(SPEC)
    shared = SharedInputs(SPEC, calls=1, max_batch_size=1)
    address = shared.address
    with shared.holding(batch(1)) as places:
        assert np.array_equal(reader.read(places), batch(1))

    del shared
    other = SharedInputs(SPEC, calls=1, max_batch_size=1)
    assert other.address == address
    with other.holding(batch(2)) as places:
        assert np.array_equal(reader.read(places), batch(2))
