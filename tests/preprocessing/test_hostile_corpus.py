"""1,283 odd, damaged and hostile files, each answered as the table of the corpus expects."""

import csv
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from preprocessing import DecodeRules, SpecPreprocessing, decode_image, to_input
from preprocessing.errors import ImageRejected
from tests.preprocessing.files import LIMITS, imagenet
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


def answers(rules: DecodeRules, threads: int) -> list[tuple[dict[str, str], str, float]]:
    """(row, "ok" or "reject", CPU seconds) of every file. Anything else that is raised escapes."""
    spec = imagenet(decode=rules)

    def answer_to(row: dict[str, str]) -> tuple[dict[str, str], str, float]:
        data = (BROKEN / row["path"]).read_bytes()
        started = time.thread_time()
        try:
            to_input(data, SpecPreprocessing(spec), LIMITS)
            answer = "ok"
        except ImageRejected:
            answer = "reject"
        return row, answer, time.thread_time() - started

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(answer_to, rows()))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_every_file_is_answered_as_expected_in_time_and_without_growth() -> None:
    # The rules of a model do not change what is a good file. The first pass fills the arenas of
    # the allocator; what the second adds is growth.
    shrunk = DecodeRules(alpha="white", exif_orientation=True, shrink_jpeg_to_side=16)
    other = answers(shrunk, threads=8)
    before = resident_bytes()

    results = answers(DecodeRules(), threads=1)

    assert len(results) == 1283
    surprising = {row["path"] for row, answer, _ in results if answer != row["expect"]}
    assert surprising == LARGER_THAN_THE_LIMITS
    firm = [(row, answer) for row, answer, _ in other if row["firm"] == "yes"]
    assert [row["path"] for row, answer in firm if answer != row["expect"]] == []
    assert max(seconds for _, _, seconds in results) < 1.0
    assert resident_bytes() - before < 50_000_000


def test_decoded_pixels_are_those_of_the_table() -> None:
    checked = 0
    for row in rows():
        if row["expect"] != "ok" or not row["mean_rgb"] or row["path"] in LARGER_THAN_THE_LIMITS:
            continue
        data = (BROKEN / row["path"]).read_bytes()
        image = decode_image(data, DecodeRules(grey16="clip"), LIMITS)
        histogram = image.histogram()
        means = [
            sum(value * count for value, count in enumerate(histogram[at : at + 256]))
            / (image.width * image.height)
            for at in (0, 256, 512)
        ]
        expected = [float(mean) for mean in row["mean_rgb"].split(";")]
        assert means == pytest.approx(expected, abs=2), row["path"]
        checked += 1
    assert checked > 500
