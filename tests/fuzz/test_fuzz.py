"""A short, repeatable piece of the fuzz run, and proof that a finding would be noticed."""

import os
import random
from pathlib import Path

import pytest

from preprocessing import SpecPreprocessing
from tests.fuzz import target
from tests.fuzz.mutations import mutated, seeds

FILES = int(os.environ.get("FUZZ_FILES", "2000"))
pytestmark = [
    pytest.mark.all,
    # Pillow's remarks on damaged files.
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def test_mutated_files_are_pictures_or_client_errors(tmp_path: Path) -> None:
    chance, pool, good = random.Random(20), seeds(), 0
    for _ in range(FILES):
        data = mutated(chance.choice(pool), chance, pool)
        (tmp_path / "last").write_bytes(data)  # one that kills the process is known
        good += target.run_once(data)

    assert 0 < good < FILES


def test_another_exception_and_slowness_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SpecPreprocessing, image: object) -> None:
        raise KeyError("escaped")

    with monkeypatch.context() as patch:
        patch.setattr(target, "MAX_CPU_SECONDS", 0.0)
        with pytest.raises(target.TooSlow):
            target.run_once(seeds()[0])
    monkeypatch.setattr(SpecPreprocessing, "to_input", broken)
    with pytest.raises(Exception, match="escaped"):
        target.run_once(seeds()[0])
