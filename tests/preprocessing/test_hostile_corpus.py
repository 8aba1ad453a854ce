"""1,283 unusual, damaged and hostile files, compared with the outcomes in the corpus's table."""

import csv
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from preprocessing import DecodeRules, SpecPreprocessing, to_input
from preprocessing.errors import ImageRejected
from tests.preprocessing.files import LIMITS, imagenet
from tests.shared_data import SHARED, needs_shared_data

BROKEN = SHARED / "broken"
# Above 25 megapixels; the table lets a service accept them.
LARGER_THAN_THE_LIMITS = {
    "generated/flat_grey_9400sq_progressive.jpg",
    "generated/flat_rgb_9000sq.png",
}
pytestmark = [
    needs_shared_data,
    # Pillow warns about an APNG with a wrong frame count and GIF frames above 89 megapixels.
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def rows() -> list[dict[str, str]]:
    with (BROKEN / "broken.csv").open(newline="") as table:
        return list(csv.DictReader(table))


def outcomes(rules: DecodeRules, threads: int) -> list[tuple[dict[str, str], str, float]]:
    """Return (row, "ok" or "reject", CPU seconds) for every file. Other exceptions propagate."""
    preprocessing = SpecPreprocessing(imagenet(decode=rules))

    def outcome_of(row: dict[str, str]) -> tuple[dict[str, str], str, float]:
        data = (BROKEN / row["path"]).read_bytes()
        started = time.thread_time()
        try:
            to_input(data, preprocessing, LIMITS)
            outcome = "ok"
        except ImageRejected:
            outcome = "reject"
        return row, outcome, time.thread_time() - started

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(outcome_of, rows()))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_every_file_has_the_expected_outcome_in_time_and_without_memory_growth() -> None:
    # The decode rules must not change which files are accepted. The first pass fills the
    # allocator's arenas, so any memory that the second adds is growth.
    shrunk = DecodeRules(alpha="white", exif_orientation=True, shrink_jpeg_to_side=16)
    shrunk_results = outcomes(shrunk, threads=8)
    before = resident_bytes()

    results = outcomes(DecodeRules(), threads=1)

    assert len(results) == 1283
    unexpected = {row["path"] for row, outcome, _ in results if outcome != row["expect"]}
    assert unexpected == LARGER_THAN_THE_LIMITS
    firm = [(row, outcome) for row, outcome, _ in shrunk_results if row["firm"] == "yes"]
    assert [row["path"] for row, outcome in firm if outcome != row["expect"]] == []
    assert max(seconds for _, _, seconds in results) < 1.0
    assert resident_bytes() - before < 50_000_000
