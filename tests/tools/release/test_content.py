"""The digest of a bento's content: every byte changes it."""

from pathlib import Path

import pytest

from tests.changes import flip_bit
from tests.tools.release.bentos import write_bento
from tools.release import ReleaseError
from tools.release.content import content_digest


def test_every_change_of_the_content_changes_the_digest(tmp_path: Path) -> None:
    digests = [content_digest(write_bento(tmp_path / "as it is"))]
    for name in [
        "README.md",
        "apis/schema.json",
        "env/docker/Dockerfile",
        "src/service.py",
        "src/model.lock",  # and so labels and weights, whose digest it holds
        "src/deploy/requirements/serve-cpu.txt",
    ]:
        root = write_bento(tmp_path / name.replace("/", " "))
        flip_bit(root / name)
        digests.append(content_digest(root))
    for changes in ({"labels": {"a": "b"}}, {"name": "other"}, {"spec": 2}):
        digests.append(content_digest(write_bento(tmp_path / str(changes), **changes)))
    root = write_bento(tmp_path / "renamed")
    (root / "src/service.py").rename(root / "src/servicf.py")  # at the same place in the order
    digests.append(content_digest(root))

    assert len(set(digests)) == len(digests) == 11


def test_a_directory_that_is_no_bento_is_refused_with_its_path(tmp_path: Path) -> None:
    root = write_bento(tmp_path)

    for text in ("- a list", "name: x", "{"):
        (root / "bento.yaml").write_text(text)
        with pytest.raises(ReleaseError, match=r"bento\.yaml: .*; "):
            content_digest(root)
