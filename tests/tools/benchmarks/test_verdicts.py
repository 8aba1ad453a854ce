"""When a promise is kept, with numbers by hand."""

import json
from typing import Any

import pytest

from benchmarks import verdicts
from benchmarks.promises import to_the_last_digit
from benchmarks.record import Run
from tests.benchmarks.servers import target
from tests.benchmarks.test_record import run


def closed(**changes: Any) -> Run:
    given: dict[str, Any] = {"mode": "closed", "offered_rate_per_s": None, "connections": 4}
    return run(**given | changes)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"latencies_ms": (50.0,) * 100}, True),
        ({"latencies_ms": (50.1,) * 100}, False),
        ({"failed": {"500": 1}}, False),
        ({"wrong": 1}, False),
    ],
)
def test_a_rate_is_held_without_any_error_and_within_the_budget(
    changes: dict[str, Any], kept: bool
) -> None:
    assert verdicts.hold(run(**changes), {}, budget_ms=50).kept is kept


# Capacity: 10 answers in 1 s. Offered: 30 in 1 s, of which 9 answered are 0.9 × capacity.
@pytest.mark.parametrize(
    ("answered", "latency_ms", "failed", "kept"),
    [
        (9, 100.0, {"429": 21}, True),
        (8, 100.0, {"429": 22}, False),
        (9, 100.1, {"429": 21}, False),
        (9, 100.0, {"429": 20, "timeout": 1}, False),
    ],
)
def test_overload_leaves_nine_tenths_of_the_capacity_and_refuses_the_rest(
    answered: int, latency_ms: float, failed: dict[str, int], kept: bool
) -> None:
    capacity = closed(latencies_ms=(5.0,) * 10, elapsed_s=1.0)
    offered = run(
        offered_rate_per_s=30.0,
        duration_s=1.0,
        elapsed_s=1.1,
        latencies_ms=(latency_ms,) * answered,
        failed=failed,
    )

    check = verdicts.overload(capacity, offered, {}, budget_ms=50)

    assert check.kept is kept
    assert check.facts["goodput_per_s"] == answered


def test_a_refusal_is_an_answer_and_a_closed_connection_is_a_loss() -> None:
    answered = (1.0,) * 8

    refused = verdicts.soak(closed(latencies_ms=answered, failed={"429": 2}), {}, requests=10)
    lost = verdicts.soak(closed(latencies_ms=answered, failed={"lost": 2}), {}, requests=10)
    missing = verdicts.soak(closed(latencies_ms=answered), {}, requests=10)

    assert (refused.kept, lost.kept, missing.kept) == (True, False, False)
    assert lost.facts["lost"] == 2


def test_one_answer_that_differs_breaks_determinism_and_none_proves_nothing() -> None:
    assert verdicts.deterministic([closed(), closed()], {}).kept
    assert not verdicts.deterministic([closed(), closed(wrong=1)], {}).kept
    assert not verdicts.deterministic([closed(latencies_ms=())], {}).kept


def test_answers_are_compared_to_the_last_digit() -> None:
    def body(class_id: int, probability: float) -> bytes:
        return json.dumps(
            {"predictions": [{"class_id": class_id, "probability": probability}], "id": "any"}
        ).encode()

    alone = iter([body(0, 0.5), body(1, 0.25), body(0, 0.5)])
    strict = to_the_last_digit(target(0), lambda _: next(alone))

    assert strict.read_class(body(0, 0.5)) in strict.accepted[0]
    assert strict.read_class(body(1, 0.25)) not in strict.accepted[0]
    with pytest.raises(KeyError):  # a LookupError is a wrong answer
        strict.read_class(body(0, 0.5000000000000001))


def test_a_check_without_any_answer_can_be_stored() -> None:
    check = verdicts.hold(run(latencies_ms=(), failed={"lost": 3}), {}, budget_ms=50)

    assert "p99_ms" not in check.facts
    assert type(check).model_validate_json(check.model_dump_json()) == check
