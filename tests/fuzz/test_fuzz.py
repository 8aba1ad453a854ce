"""A short, repeatable piece of the fuzz run, and proof that a finding would be noticed."""

import random

import pytest

from preprocessing import SpecPreprocessing
from tests.fuzz import target
from tests.fuzz.mutations import mutated, seeds

pytestmark = [
    pytest.mark.all,
    # Pillow's remarks on damaged files.
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def test_two_thousand_mutated_files_are_pictures_or_client_errors() -> None:
    chance, pool = random.Random(20), seeds()

    good = sum(target.run_once(mutated(chance.choice(pool), chance, pool)) for _ in range(2000))

    assert 0 < good < 2000


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
