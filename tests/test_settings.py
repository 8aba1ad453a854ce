"""Settings: what an operator may say, and how a slip of the pen is told."""

import pytest

from image_classifier.settings import PREFIX, Settings, SettingsError
from preprocessing.errors import OperatorError

DEFAULTS = Settings.from_env({})


def settings(**given: str) -> Settings:
    return Settings.from_env({f"{PREFIX}{name}": value for name, value in given.items()})


def test_settings_are_read_from_their_variables_and_others_are_left_alone() -> None:
    found = settings(TOPOLOGY="runner", BUDGET_MS="20.5", MAX_QUEUE="7", DETERMINISTIC="true")

    chosen = (found.topology, found.budget_ms, found.max_queue, found.deterministic)
    assert chosen == ("runner", 20.5, 7, True)
    assert found.changed == {
        "CLASSIFIER_TOPOLOGY": "runner",
        "CLASSIFIER_BUDGET_MS": 20.5,
        "CLASSIFIER_MAX_QUEUE": 7,
        "CLASSIFIER_DETERMINISTIC": True,
    }
    assert Settings.from_env({"PATH": "/bin", "XCLASSIFIER_LOCK": "no"}) == DEFAULTS
    assert DEFAULTS.changed == {}


@pytest.mark.parametrize(
    ("given", "wait_ms", "overload_wait_range_ms"),
    [
        ({}, 2_000, (25, 50)),  # half the budget, the budget
        ({"TIMEOUT_MS": "700", "BUDGET_MS": "30"}, 700, (15, 30)),  # none is let in to time out
        ({"MAX_WAIT_MS": "30"}, 30, (25, 30)),
        ({"OVERLOAD_WAIT_MS": "40", "BUDGET_MS": "30"}, 2_000, (40, 40)),
    ],
)
def test_a_request_waits_no_longer_than_its_timeout_and_during_overload_than_the_budget(
    given: dict[str, str], wait_ms: float, overload_wait_range_ms: tuple[float, float]
) -> None:
    found = settings(**given)

    assert found.longest_wait_ms == wait_ms
    assert found.overload_wait_range_ms == overload_wait_range_ms


def test_limits_of_decoding_are_those_that_are_set() -> None:
    limits = settings(MAX_PIXELS="9", MAX_BODY_BYTES="2000", MAX_JPEG_SCANS="3").decode_limits

    assert (limits.max_pixels, limits.max_bytes, limits.max_jpeg_scans) == (9, 2000, 3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("MAX_QUEU", "did you mean CLASSIFIER_MAX_QUEUE\\? known are CLASSIFIER_BUDGET_MS"),
        ("XYZZY", "unknown CLASSIFIER_XYZZY; known are CLASSIFIER_BUDGET_MS"),
    ],
)
def test_an_unknown_variable_is_an_error_with_a_guess_where_one_is_near(
    name: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        settings(**{name: "3"})


def test_a_value_that_cannot_be_is_told_in_one_line_with_name_and_value() -> None:
    for name, values in {
        "TOPOLOGY": ("clever",),
        "BUDGET_MS": ("0", "fast", "nan"),
        "MAX_WAIT_MS": ("inf",),
        "TIMEOUT_MS": ("60000",),
        "MAX_QUEUE": ("1.5",),
        "WORKERS": ("0",),
        "DETERMINISTIC": ("perhaps",),
        "MAX_BODY_BYTES": ("10",),
        "MAX_ASPECT_RATIO": ("0.5",),
        "DEFAULT_TOP_K": ("0",),
    }.items():
        for value in values:
            with pytest.raises(OperatorError, match=f"variable CLASSIFIER_{name}: ") as refused:
                settings(**{name: value})
            message = str(refused.value)
            assert repr(value) in message
            assert message.endswith("; correct or unset it")
            assert "\n" not in message
