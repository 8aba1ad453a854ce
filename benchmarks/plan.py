"""What a session measures: which models, servers, rates, and for how long."""

from dataclasses import dataclass

from benchmarks.catalogue import NULL, PEERS, PRODUCT_SERVER, Server
from benchmarks.images import CAMERA_MIX, WEB_MIX


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model with one image mix.

    Attributes:
        architecture, precision: See `models`.
        mix: Name of the image mix.
        rates_per_s: Open-loop rates every server is offered.
        servers: Measured in this order in every round.
        rounds: Every round visits every server once, so that drift of the machine hits all.
        loadgen_s: Length of LoadGen's Server scenario in the last round; 0 leaves it out.
    """

    architecture: str
    precision: str
    mix: str
    rates_per_s: tuple[float, ...]
    servers: tuple[Server, ...]
    rounds: int = 1
    loadgen_s: float = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A session.

    Attributes:
        warmup_s: Closed-loop load before anything is recorded.
        saturation_s, rate_s, probe_s, limit_s: Length of a closed run, of a run at a fixed
            rate, of a probe of the search, and of a measurement of the limit.
        connections: In flight in a closed run: enough to saturate 2 to 4 cores, and few enough
            that at 100/s nobody waits beyond the limit at which this project refuses.
        budget_ms: Latency the p99 may take.
        resolution_per_s: Of the search.
    """

    name: str
    cases: tuple[Case, ...]
    warmup_s: float
    saturation_s: float
    rate_s: float
    probe_s: float
    limit_s: float
    connections: int = 8
    budget_ms: float = 50.0
    resolution_per_s: float = 2.0


EVERYONE = (PRODUCT_SERVER, *PEERS)

QUICK = Plan(
    name="quick",
    cases=(
        Case(
            architecture="resnet50",
            precision="int8",
            mix=WEB_MIX,
            rates_per_s=(5, 50, 75),
            servers=(NULL, PRODUCT_SERVER, PEERS[0]),
        ),
    ),
    warmup_s=2,
    saturation_s=8,
    rate_s=10,
    probe_s=8,
    limit_s=5,
)

FULL = Plan(
    name="full",
    cases=(
        Case(
            architecture="resnet50",
            precision="int8",
            mix=WEB_MIX,
            rates_per_s=(5, 25, 50, 75, 90, 110),
            servers=(NULL, *EVERYONE),
            rounds=3,
            loadgen_s=60,
        ),
        Case(
            architecture="resnet50",
            precision="bf16",
            mix=WEB_MIX,
            rates_per_s=(5, 25, 50),
            servers=EVERYONE[:5],
        ),
        Case(
            architecture="resnet50",
            precision="int8",
            mix=CAMERA_MIX,
            rates_per_s=(2, 5),
            servers=EVERYONE[:2],
        ),
        Case(
            architecture="mobilenet_v3_large",
            precision="fp32",
            mix=WEB_MIX,
            rates_per_s=(5, 50, 100, 150),
            servers=EVERYONE[:5],
        ),
        Case(
            architecture="vit_b_16",
            precision="int8",
            mix=WEB_MIX,
            rates_per_s=(2, 5, 10, 20),
            servers=EVERYONE[:2],
        ),
    ),
    warmup_s=3,
    saturation_s=12,
    rate_s=15,
    probe_s=12,
    limit_s=10,
)

PLANS = {plan.name: plan for plan in (QUICK, FULL)}
