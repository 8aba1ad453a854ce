"""The operator's limits are the preprocessing's limits."""

from image_classifier.settings import Settings
from preprocessing import DecodeLimits


def test_every_decode_limit_is_a_setting_with_the_same_default() -> None:
    limits = DecodeLimits().model_dump(exclude={"max_bytes"})

    assert Settings().model_dump(include=set(limits)) == limits


def test_the_length_of_a_file_is_limited_by_the_setting_of_the_body() -> None:
    assert Settings().max_body_bytes == DecodeLimits().max_bytes == 20_971_520
