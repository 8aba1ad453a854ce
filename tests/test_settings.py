"""Settings: what an operator may say, and how a slip of the pen is told."""

import pytest

from image_classifier.settings import PREFIX, Settings, SettingsError
from preprocessing.errors import OperatorError

DEFAULTS = Settings.from_env({})


def settings(**given: str) -> Settings:
    return Settings.from_env({f"{PREFIX}{name}": value for name, value in given.items()})


def test_settings_are_read_from_their_variables_and_others_are_left_alone() -> None:
    found = settings(
        LOCK="other.lock",
        TOPOLOGY="runner",
        ENGINE="openvino-int8",
        BUDGET_MS="20.5",
        MAX_QUEUE="7",
        DETERMINISTIC="true",
        WORKERS="3",
        DEFAULT_TOP_K="1",
    )

    assert (found.lock, found.topology, found.engine) == ("other.lock", "runner", "openvino-int8")
    assert (found.budget_ms, found.max_queue, found.workers) == (20.5, 7, 3)
    assert (found.deterministic, found.default_top_k) == (True, 1)
    assert found.changed["CLASSIFIER_BUDGET_MS"] == 20.5
    assert len(found.changed) == 8
    assert Settings.from_env({"PATH": "/bin", "XCLASSIFIER_LOCK": "no"}) == DEFAULTS
    assert DEFAULTS.changed == {}


def test_a_burst_may_wait_two_seconds_but_not_into_the_timeout() -> None:
    assert DEFAULTS.longest_wait_ms == 2_000
    assert settings(TIMEOUT_MS="700").longest_wait_ms == 700
    assert settings(MAX_WAIT_MS="10").longest_wait_ms == 10


def test_during_overload_the_longest_wait_is_the_budget_unless_set() -> None:
    assert settings(BUDGET_MS="30").longest_overload_wait_ms == 30
    assert settings(BUDGET_MS="30", OVERLOAD_WAIT_MS="40").longest_overload_wait_ms == 40
    assert settings(BUDGET_MS="30", MAX_WAIT_MS="10").longest_overload_wait_ms == 10


def test_limits_of_decoding_are_those_that_are_set() -> None:
    limits = settings(MAX_PIXELS="9", MAX_BODY_BYTES="2000", MAX_JPEG_SCANS="3").decode_limits

    assert (limits.max_pixels, limits.max_bytes, limits.max_jpeg_scans) == (9, 2000, 3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("MAX_QUEU", "did you mean CLASSIFIER_MAX_QUEUE\\? known are CLASSIFIER_LOCK"),
        ("XYZZY", "unknown CLASSIFIER_XYZZY; known are CLASSIFIER_LOCK"),
    ],
)
def test_an_unknown_variable_is_an_error_with_a_guess_where_one_is_near(
    name: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        settings(**{name: "3"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOPOLOGY", "clever"),
        ("BUDGET_MS", "0"),
        ("BUDGET_MS", "fast"),
        ("BUDGET_MS", "nan"),
        ("MAX_WAIT_MS", "inf"),
        ("TIMEOUT_MS", "60000"),
        ("KEEP_ALIVE_S", "0"),
        ("MAX_QUEUE", "1.5"),
        ("WORKERS", "0"),
        ("DETERMINISTIC", "perhaps"),
        ("MAX_BODY_BYTES", "10"),
        ("MAX_ASPECT_RATIO", "0.5"),
        ("DEFAULT_TOP_K", "0"),
    ],
)
def test_a_value_that_cannot_be_is_told_in_one_line_with_name_and_value(
    name: str, value: str
) -> None:
    with pytest.raises(SettingsError, match=f"environment variable CLASSIFIER_{name}: ") as refused:
        settings(**{name: value})

    message = str(refused.value)
    assert repr(value) in message
    assert message.endswith("; correct or unset it")
    assert "\n" not in message
    assert isinstance(refused.value, OperatorError)
