"""Batches in flight on a device: right answers however late it works."""

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


@dataclass(eq=False)
class Stream:
    """Work that is still to be done, in order; an event to wait for stands among it."""

    work: deque[Callable[[], object] | threading.Event] = field(default_factory=deque)


class LateDevice:
    """A device of streams that does everything as late as it may, in an order drawn by lot.

    Nothing is done before a thread waits for it. Then streams are drawn, and each does its next
    piece of work, until the one waited for is done. What no wait puts in order is so done in
    every order.

    Args:
        seed: Of the lots.
        room: Largest batch that can be captured.
    """

    def __init__(self, seed: int = 0, *, room: int = 99) -> None:
        self._random = random.Random(seed)
        self._room = room
        self._streams: list[Stream] = []
        self._lock = threading.Lock()

    def stream(self) -> Stream:
        self._streams.append(Stream())
        return self._streams[-1]

    def enqueue(self, stream: Stream, work: Callable[[], object]) -> None:
        with self._lock:
            stream.work.append(work)

    def mark(self, stream: Stream) -> threading.Event:
        event = threading.Event()
        self.enqueue(stream, event.set)
        return event

    def wait(self, stream: Stream, event: threading.Event) -> None:
        with self._lock:
            stream.work.append(event)

    def settle(self, event: threading.Event) -> None:
        with self._lock:
            while not event.is_set():
                self._step(self._random.choice([one for one in self._streams if one.work]))

    def _step(self, stream: Stream) -> None:
        first = stream.work[0]
        if isinstance(first, threading.Event):
            if first.is_set():
                stream.work.popleft()
        else:
            stream.work.popleft()
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


def wrong_answers(device: LateDevice, images: int) -> int:
    """Run images in batches of 1 to 4 from three threads; count the answers that are wrong."""
    engine = engine_on(device, 1, 2, 4)
    pixels = np.random.default_rng(0).integers(0, 256, (images, *SHAPE), dtype=np.uint8)
    sums = pixels.reshape(images, -1).sum(axis=1).astype(np.int64)
    sizes = random.Random(0)
    ends = [0]
    while ends[-1] < images:
        ends.append(min(images, ends[-1] + sizes.randint(1, 4)))

    def count(start: int, end: int) -> int:
        logits = engine.run(pixels[start:end])
        expected = np.stack([sums, -sums], axis=1)[start:end]
        return int((logits != expected).any(axis=1).sum())

    with ThreadPoolExecutor(3) as callers:
        return sum(callers.map(count, ends[:-1], ends[1:]))


def test_ten_thousand_answers_are_right_however_late_the_device_works() -> None:
    assert wrong_answers(LateDevice(), 10_000) == 0


def test_a_batch_runs_at_the_next_captured_size_and_one_too_large_in_parts() -> None:
    ran: list[int] = []

    def noted(pixels: torch.Tensor) -> torch.Tensor:
        ran.append(len(pixels))
        return forward(pixels)

    engine = engine_on(LateDevice(), 1, 4, forward=noted)
    ran.clear()
    logits = [engine.run(inputs(count)).tolist() for count in (1, 3, 9)]

    assert ran == [1, 4, 4, 4, 1]
    assert logits == [expected(count) for count in (1, 3, 9)]


@pytest.mark.parametrize(
    ("wanted", "room", "captured", "left_out"),
    [
        pytest.param((1, 2, 4, 8), 4, [1, 2, 4], [8], id="the-largest-are-left-out"),
        pytest.param((32,), 9, [8], [32, 16], id="no-size-fits"),
    ],
)
def test_a_full_device_lowers_the_largest_batch_and_says_so(
    caplog: pytest.LogCaptureFixture,
    wanted: tuple[int, ...],
    room: int,
    captured: list[int],
    left_out: list[int],
) -> None:
    with caplog.at_level(logging.WARNING, "classifier"):
        engine = engine_on(LateDevice(room=room), *wanted)

    assert engine.batch_sizes == captured
    assert engine.run(inputs(40)).tolist() == expected(40)
    assert caplog.messages == [
        f"no room on the device for batches of {size}: out of memory" for size in left_out
    ]


def test_a_device_without_room_for_one_image_is_an_error() -> None:
    with pytest.raises(MemoryError):
        engine_on(LateDevice(room=0), 1, 2)
