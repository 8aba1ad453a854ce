"""The sessions that have a name."""

import dataclasses

from benchmarks.catalogue import FORM_SERVER, NULL, PEERS, PRODUCT_SERVER, Server
from benchmarks.images import CAMERA_MIX, DIGITS_MIX
from benchmarks.plan import Case, Plan, PlanError

MOST_ROUNDS = 3
UNFITTED_S = 8.0

PEERS_BY_NAME = {server.name: server for server in PEERS}


def _beside(*peers: str) -> tuple[Server, ...]:
    """This project and the named peers, in the order they are measured."""
    return (PRODUCT_SERVER, *(PEERS_BY_NAME[name] for name in peers))


FEW = _beside("FastAPI", "Mosec", "LitServe", "BentoML, depends")
PLAIN = _beside("FastAPI")

QUICK = Plan(
    name="quick",
    cases=(Case(architecture="resnet50", precision="int8", rates_per_s=(5, 35), servers=FEW),),
    slice_s=UNFITTED_S,
    warmup_s=1.0,
    most_probes=2,
    longest_probe=1,
)

FULL = Plan(
    name="full",
    cases=(
        Case(
            architecture="resnet50",
            precision="int8",
            rates_per_s=(5, 20, 35, 50),
            servers=(NULL, PRODUCT_SERVER, FORM_SERVER, *PEERS),
            loadgen_s=20,
        ),
    ),
    slice_s=UNFITTED_S,
)

RELAXED = Plan(
    name="relaxed",
    cases=(
        Case(
            architecture="resnet50",
            precision="int8",
            rates_per_s=(20, 35),
            servers=_beside("FastAPI", "LitServe", "Mosec", "MLServer", "PyTriton"),
            loadgen_s=60,
            budget_ms=100,
        ),
    ),
    slice_s=UNFITTED_S,
)

MODELS = Plan(
    name="models",
    cases=(
        # A lone image takes 45 ms on two slow cores, so the budget is not the usual one.
        Case(
            architecture="resnet50",
            precision="fp32",
            rates_per_s=(5,),
            servers=PLAIN,
            budget_ms=200,
        ),
        Case(
            architecture="resnet50",
            precision="bf16",
            rates_per_s=(5, 20),
            servers=PLAIN,
            budget_ms=100,
        ),
        Case(
            architecture="resnet50",
            precision="int8",
            mix=CAMERA_MIX,
            rates_per_s=(2,),
            servers=PLAIN,
            budget_ms=200,
        ),
        Case(
            architecture="mobilenet_v3_large",
            precision="fp32",
            rates_per_s=(5, 100),
            servers=FEW,
            longest_probe=4,
        ),
        Case(
            architecture="vit_b_16",
            precision="bf16",
            rates_per_s=(2,),
            servers=PLAIN,
            budget_ms=500,
        ),
        Case(
            architecture="digits",
            precision="fp32",
            mix=DIGITS_MIX,
            rates_per_s=(5, 200),
            servers=PLAIN,
            longest_probe=1,
        ),
    ),
    slice_s=UNFITTED_S,
    longest_probe=2,
)

PRESETS = {plan.name: plan for plan in (QUICK, FULL, RELAXED, MODELS)}
MINUTES = {"quick": 4.8, "full": 30.0, "relaxed": 15.0, "models": 25.0}


def fitted(plan: Plan, minutes: float) -> Plan:
    """The plan with as many rounds as the time allows, at most 3, and slices that fill it.

    Raises:
        PlanError: The time is too short for one round.
    """
    for rounds in range(MOST_ROUNDS, 1, -1):
        try:
            return dataclasses.replace(plan, rounds=rounds).with_slices_for(60 * minutes)
        except PlanError:
            continue
    return dataclasses.replace(plan, rounds=1).with_slices_for(60 * minutes)


def only(plan: Plan, names: list[str], models: list[str]) -> Plan:
    """The plan with just the named servers and models; all of them where none is named.

    Raises:
        PlanError: A name that nothing in the plan has.
    """
    _known("--only", names, {server.name for case in plan.cases for server in case.servers})
    _known("--models", models, {case.model for case in plan.cases})
    cases = tuple(
        dataclasses.replace(
            case,
            servers=tuple(each for each in case.servers if not names or each.name in names),
        )
        for case in plan.cases
        if not models or case.model in models
    )
    return dataclasses.replace(plan, cases=tuple(case for case in cases if case.servers))


def _known(option: str, names: list[str], known: set[str]) -> None:
    if unknown := sorted(set(names) - known):
        raise PlanError(
            f"{option}: unknown {', '.join(unknown)}; the plan has {', '.join(sorted(known))}"
        )
