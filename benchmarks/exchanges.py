"""Requests, their fate, and what a run of them comes to."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from benchmarks.http_client import LOST
from benchmarks.record import Run

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server and what to ask it.

    Attributes:
        server, model, images: Names for the record.
        port: On the loopback address; nothing else is ever a target.
        requests: Whole HTTP requests, one for each image of the mix.
        accepted: For each image, the classes that count as right (several where the
            reference's best logits are nearly equal).
        read_class: Takes the body of a 200, returns the top class. A LookupError, TypeError or
            ValueError it raises makes the answer a wrong one.
    """

    server: str
    model: str
    images: str
    port: int
    requests: tuple[bytes, ...]
    accepted: tuple[frozenset[int], ...]
    read_class: Callable[[bytes], int]


@dataclass(slots=True)
class Exchange:
    """One request and its fate; times are seconds of the event loop's clock."""

    image: int
    due_s: float
    skew_s: float = 0.0
    answered_s: float | None = None
    status: int = LOST
    body: bytes = b""

    @property
    def latency_ms(self) -> float:
        """From when it was due to its answer; inf before that."""
        return math.inf if self.answered_s is None else (self.answered_s - self.due_s) * 1e3


def recorded(target: Target, exchanges: Sequence[Exchange], **conditions: Any) -> Run:
    """Judge every answer, after the load so that judging costs the server nothing."""
    latencies_ms: list[float] = []
    failed: Counter[str] = Counter()
    wrong = 0
    for exchange in exchanges:
        if exchange.answered_s is None:
            failed["timeout"] += 1
        elif exchange.status != HTTPStatus.OK:
            failed["lost" if exchange.status == LOST else str(exchange.status)] += 1
        else:
            latencies_ms.append(round(exchange.latency_ms, 3))
            wrong += not is_right(target, exchange)
    last_s = max((e.answered_s for e in exchanges if e.answered_s is not None), default=None)
    return Run(
        server=target.server,
        model=target.model,
        images=target.images,
        latencies_ms=tuple(latencies_ms),
        failed=dict(failed),
        wrong=wrong,
        elapsed_s=last_s - exchanges[0].due_s if last_s is not None else conditions["duration_s"],
        **conditions,
    )


def is_right(target: Target, exchange: Exchange) -> bool:
    """Whether a 200 names a class the reference accepts for its image."""
    try:
        return target.read_class(exchange.body) in target.accepted[exchange.image]
    except (LookupError, TypeError, ValueError):
        return False
