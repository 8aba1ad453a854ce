"""When each request of an open-loop run arrives, and which image it carries."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Arrivals of one run.

    Attributes:
        arrivals_s: Seconds after the start, ascending.
        image_indices: Which image each arrival carries; as long as `arrivals_s`.
        duration_s: Length of the interval the arrivals were drawn from.
    """

    arrivals_s: tuple[float, ...]
    image_indices: tuple[int, ...]
    duration_s: float


def poisson_schedule(rate_per_s: float, duration_s: float, images: int, seed: int) -> Schedule:
    """Draw a Poisson process: independent users, so gaps are exponential.

    The same arguments give the same schedule, on every machine and Python version:
    `random.Random.random` is the only source of chance, and it is specified to stay.

    Args:
        rate_per_s: Mean arrivals per second.
        duration_s: Arrivals fall into [0, duration_s).
        images: Number of images to draw from, uniformly.
        seed: Of both draws.
    """
    chance = random.Random(seed)
    arrivals: list[float] = []
    now = chance.expovariate(rate_per_s)
    while now < duration_s:
        arrivals.append(now)
        now += chance.expovariate(rate_per_s)
    return Schedule(
        arrivals_s=tuple(arrivals),
        image_indices=tuple(int(chance.random() * images) for _ in arrivals),
        duration_s=duration_s,
    )
