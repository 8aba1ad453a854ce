"""Settings: values, defaults and the errors for wrong ones."""

import pytest

from image_classifier.settings import PREFIX, Settings, SettingsError
from preprocessing.errors import OperatorError

DEFAULTS = Settings.from_env({})


def settings(**values: str) -> Settings:
    return Settings.from_env({f"{PREFIX}{name}": value for name, value in values.items()})


def test_settings_are_read_from_their_variables_only() -> None:
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
    ("values", "wait_ms", "overload_wait_range_ms"),
    [
        ({}, 2_000, (25, 50)),  # half the budget, the budget
        ({"TIMEOUT_MS": "700", "BUDGET_MS": "30"}, 700, (15, 30)),  # no longer than the timeout
        ({"MAX_WAIT_MS": "30"}, 30, (25, 30)),
        ({"OVERLOAD_WAIT_MS": "40", "BUDGET_MS": "30"}, 2_000, (40, 40)),
    ],
)
def test_waits_are_limited_by_the_timeout_and_during_overload_by_the_budget(
    values: dict[str, str], wait_ms: float, overload_wait_range_ms: tuple[float, float]
) -> None:
    found = settings(**values)

    assert found.longest_wait_ms == wait_ms
    assert found.overload_wait_range_ms == overload_wait_range_ms


def test_decode_limits_follow_the_settings() -> None:
    limits = settings(MAX_PIXELS="9", MAX_BODY_BYTES="2000", MAX_JPEG_SCANS="3").decode_limits

    assert (limits.max_pixels, limits.max_bytes, limits.max_jpeg_scans) == (9, 2000, 3)


def test_an_unknown_variable_is_an_error_with_a_suggestion_if_one_is_close() -> None:
    with pytest.raises(SettingsError, match=r"did you mean CLASSIFIER_MAX_QUEUE\? known are"):
        settings(MAX_QUEU="3")
    with pytest.raises(SettingsError, match="unknown CLASSIFIER_XYZZY; known are CLASSIFIER_BUD"):
        settings(XYZZY="3")


def test_all_wrong_variables_are_reported_in_one_message() -> None:
    with pytest.raises(SettingsError) as refused:
        settings(WORKERS="0", MAX_QUEUE="many", MAX_QUEU="3", XYZZY="3")

    message = str(refused.value)
    assert "variable CLASSIFIER_WORKERS: found '0', " in message
    assert "variable CLASSIFIER_MAX_QUEUE: found 'many', " in message
    assert "unknown CLASSIFIER_MAX_QUEU, CLASSIFIER_XYZZY; did you mean" in message


def test_a_budget_above_the_timeout_is_an_error() -> None:
    assert settings(BUDGET_MS="5000").budget_ms == 5_000
    for values in ({"BUDGET_MS": "5001"}, {"BUDGET_MS": "100", "TIMEOUT_MS": "99"}):
        with pytest.raises(SettingsError, match=r"BUDGET_MS .* exceeds CLASSIFIER_TIMEOUT_MS"):
            settings(**values)


def test_an_invalid_value_is_an_error_of_one_line_with_name_and_value() -> None:
    for name, values in {
        "PUBLIC_KEY": ("",),
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
