"""1,283 odd, damaged and hostile files, each answered as the table of the corpus expects."""

import csv
import time
from pathlib import Path

import pytest

from preprocessing import (
    DecodeRules,
    PreprocessingSpec,
    SpecPreprocessing,
    decode_image,
    to_input,
)
from preprocessing.errors import ImageRejected
from tests.preprocessing.files import LIMITS
from tests.shared_data import SHARED, needs_shared_data

BROKEN = SHARED / "broken"
# The service takes JPEG up to 25 megapixels, and the table allows a service to take more.
LARGER_THAN_THE_LIMITS = {
    "generated/flat_grey_9400sq_progressive.jpg",
    "generated/flat_rgb_9000sq.png",
}
pytestmark = [
    needs_shared_data,
    # Pillow warns of an APNG whose frame count is wrong and of GIF frames above 89 megapixels.
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def rows() -> list[dict[str, str]]:
    with (BROKEN / "broken.csv").open(newline="") as table:
        return list(csv.DictReader(table))


def answers(preprocessing: SpecPreprocessing) -> list[tuple[dict[str, str], str, float]]:
    """(row, "ok" or "reject", CPU seconds) of every file. Anything else that is raised escapes."""
    results = []
    for row in rows():
        data = (BROKEN / row["path"]).read_bytes()
        started = time.thread_time()
        try:
            to_input(data, preprocessing, LIMITS)
            answer = "ok"
        except ImageRejected:
            answer = "reject"
        results.append((row, answer, time.thread_time() - started))
    return results


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_every_file_is_answered_as_expected_in_time_and_without_growth():
    preprocessing = SpecPreprocessing(PreprocessingSpec.imagenet())
    results = answers(preprocessing)  # once unmeasured, so that the allocator has its arenas
    before = resident_bytes()

    results = answers(preprocessing)

    assert len(results) == 1283
    surprising = {row["path"]: answer for row, answer, _ in results if answer != row["expect"]}
    assert set(surprising) == LARGER_THAN_THE_LIMITS
    assert max(seconds for _, _, seconds in results) < 1.0
    assert resident_bytes() - before < 50_000_000


@pytest.mark.parametrize(
    "rules",
    [
        DecodeRules(mode="L", alpha="white", exif_orientation=True),
        DecodeRules(alpha="black", grey16="clip", shrink_jpeg_to_side=16),
    ],
    ids=["every rule", "every other rule"],
)
def test_the_rules_of_a_model_do_not_change_what_is_a_good_file(rules):
    spec = PreprocessingSpec(decode=rules, resize={"size": 256}, crop=224)

    surprising = {
        row["path"]
        for row, answer, _ in answers(SpecPreprocessing(spec))
        if answer != row["expect"] and row["firm"] == "yes"
    }

    assert surprising == set()


def test_decoded_pixels_are_those_of_the_table():
    checked = 0
    for row in rows():
        if row["expect"] != "ok" or not row["mean_rgb"] or row["path"] in LARGER_THAN_THE_LIMITS:
            continue
        image = decode_image(
            (BROKEN / row["path"]).read_bytes(), DecodeRules(grey16="clip"), LIMITS
        )
        expected = [float(mean) for mean in row["mean_rgb"].split(";")]
        histogram = image.histogram()
        pixels = image.size[0] * image.size[1]
        means = [
            sum(value * count for value, count in enumerate(histogram[at : at + 256])) / pixels
            for at in (0, 256, 512)
        ]
        assert means == pytest.approx(expected, abs=2), row["path"]
        checked += 1
    assert checked > 500
