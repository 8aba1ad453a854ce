"""The cases of a session (model, image mix, budget) and its presets."""

from dataclasses import dataclass

from tools.benchmarks.images import CAMERA_MIX, DIGITS_MIX, WEB_MIX


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model with one image mix.

    Attributes:
        model: See `models.make_workload`.
        budget_ms: Limit for the p99; also this project's setting.
        low_rate_per_s: Rate at which requests rarely overlap, for the latency a server adds.
    """

    model: str
    mix: str = WEB_MIX
    budget_ms: float = 50.0
    low_rate_per_s: float = 5.0


CASES = {
    "resnet50-int8": Case(model="resnet50-int8"),
    "resnet50-int8-100ms": Case(model="resnet50-int8", budget_ms=100),
    "resnet50-int8-camera": Case(
        model="resnet50-int8", mix=CAMERA_MIX, budget_ms=200, low_rate_per_s=2
    ),
    "resnet50-bf16": Case(model="resnet50-bf16", budget_ms=100),
    "resnet50-fp32": Case(model="resnet50-fp32", budget_ms=200),
    "mobilenet_v3_large-fp32": Case(model="mobilenet_v3_large-fp32"),
    "vit_b_16-bf16": Case(model="vit_b_16-bf16", budget_ms=500, low_rate_per_s=2),
    "digits-fp32": Case(model="digits-fp32", mix=DIGITS_MIX),
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How a session measures.

    Attributes:
        cases: Names of `CASES`.
        rounds: Every round visits every server of every case once, so that drift of the machine
            affects all of them.
        slice_s: Seconds of a closed run, an open run and a measurement of the limit.
        probes: Probes of the search for the highest rate, per round.
        load_parts: Open runs at these parts of the server's own saturated throughput.
        overload: This project is also offered this multiple of it; 0 skips this.
    """

    cases: tuple[str, ...]
    rounds: int
    slice_s: float
    probes: int
    load_parts: tuple[float, ...] = ()
    overload: float = 0


PRESETS = {
    "quick": Preset(cases=("resnet50-int8",), rounds=1, slice_s=6, probes=2),
    "full": Preset(
        cases=("resnet50-int8", "resnet50-bf16", "mobilenet_v3_large-fp32", "digits-fp32"),
        rounds=3,
        slice_s=10,
        probes=4,
        load_parts=(0.5, 0.8),
        overload=3,
    ),
}
