"""Batches in flight on a device: the answers are right however late it works."""

import functools
import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from image_classifier.inference.engines.in_flight import InFlightEngine
from tests.inference.fakes import CLASSES, INPUT_SPEC, expected, inputs

SHAPE = INPUT_SPEC.shape


class Event(threading.Event):
    """An event of a `LateDevice`, which works while a thread waits for it."""

    def __init__(self, device: "LateDevice") -> None:
        super().__init__()
        self._device = device

    def synchronize(self) -> None:
        self._device.work_until(self)


@dataclass(eq=False)
class Stream:
    """Pending work, and events to wait for, in order."""

    lock: threading.Lock
    work: deque[Callable[[], object] | Event] = field(default_factory=deque)

    def wait_event(self, event: Event) -> None:
        with self.lock:
            self.work.append(event)


class LateDevice:
    """A device that does all work as late as possible, and unsynchronised work in random order.

    Nothing is done until a thread waits for an event. Then randomly chosen streams do their next
    piece of work until the event is set.

    Args:
        room: Largest batch that can be captured.
    """

    def __init__(self, *, room: int = 99) -> None:
        self._random = random.Random(0)
        self._room = room
        self._streams: list[Stream] = []
        self._lock = threading.Lock()

    def stream(self) -> Stream:
        self._streams.append(Stream(self._lock))
        return self._streams[-1]

    def enqueue(self, stream: Stream, work: Callable[[], object]) -> None:
        with self._lock:
            stream.work.append(work)

    def record(self, stream: Stream) -> Event:
        event = Event(self)
        self.enqueue(stream, event.set)
        return event

    def work_until(self, event: Event) -> None:
        with self._lock:
            while not event.is_set():
                stream = self._random.choice([stream for stream in self._streams if stream.work])
                first = stream.work[0]
                if isinstance(first, Event) and not first.is_set():
                    continue
                stream.work.popleft()
                if not isinstance(first, Event):
                    first()

    def zeros(self, shape: Sequence[int], dtype: str, *, on_host: bool) -> torch.Tensor:
        return torch.zeros(*shape, dtype=getattr(torch, dtype))

    def capture(self, stream: Stream, work: Callable[[], object]) -> Callable[[], object]:
        assert isinstance(work, functools.partial)
        if len(work.args[0]) > self._room:
            raise MemoryError("out of memory")
        work()
        return work


def forward(pixels: torch.Tensor) -> torch.Tensor:
    """Logits: the sum of an input and its negation."""
    sums = pixels.flatten(1).float().sum(1)
    return torch.stack([sums, -sums], 1)


def engine_on(
    device: LateDevice, *batch_sizes: int, forward: Callable[[Any], Any] = forward
) -> InFlightEngine:
    return InFlightEngine(
        forward,
        device,
        batch_sizes,
        slots=3,
        input_shape=SHAPE,
        dtype="uint8",
        num_classes=CLASSES,
    )


def test_ten_thousand_answers_from_three_threads_are_right_however_late_the_device_works() -> None:
    engine = engine_on(LateDevice(), 1, 2, 4)
    pixels = np.random.default_rng(0).integers(0, 256, (10_000, *SHAPE), dtype=np.uint8)
    sums = pixels.reshape(len(pixels), -1).sum(axis=1).astype(np.int64)
    sizes = random.Random(0)
    batches = np.split(pixels, np.cumsum([sizes.randint(1, 4) for _ in range(4_000)]))

    with ThreadPoolExecutor(3) as callers:
        logits = np.concatenate(list(callers.map(engine.run, filter(len, batches))))

    assert np.array_equal(logits, np.stack([sums, -sums], axis=1))


def test_a_batch_runs_at_the_next_captured_size_and_one_too_large_in_parts() -> None:
    sizes: list[int] = []

    def recording_forward(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return forward(pixels)

    engine = engine_on(LateDevice(), 1, 4, forward=recording_forward)
    sizes.clear()
    logits = [engine.run(inputs(count)).tolist() for count in (1, 3, 9)]

    assert sizes == [1, 4, 4, 4, 1]
    assert logits == [expected(count) for count in (1, 3, 9)]


def test_batch_sizes_too_large_for_the_memory_are_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "classifier"):
        engine = engine_on(LateDevice(room=4), 1, 2, 4, 8)

    assert engine.batch_sizes == [1, 2, 4]
    assert engine.run(inputs(40)).tolist() == expected(40)
    assert caplog.messages == ["no memory on the device for batches of 8: out of memory"]
    with pytest.raises(MemoryError):
        engine_on(LateDevice(room=0), 1, 2)
