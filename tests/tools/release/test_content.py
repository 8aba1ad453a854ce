"""The digest of a bento's content: every byte changes it."""

from pathlib import Path

import pytest

from tests.tools.release.bentos import write_bento
from tools.release import ReleaseError
from tools.release.content import content_digest


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "apis/schema.json",
        "env/docker/Dockerfile",
        "src/service.py",
        "src/model.lock",  # and so labels and weights, whose digest it holds
        "src/deploy/requirements/serve-cpu.txt",
    ],
)
def test_a_flipped_bit_in_any_file_changes_the_digest(tmp_path: Path, name: str) -> None:
    root = write_bento(tmp_path)
    before = content_digest(root)

    data = bytearray((root / name).read_bytes())
    data[-2] ^= 1
    (root / name).write_bytes(data)

    assert content_digest(root) != before


@pytest.mark.parametrize("changes", [{"labels": {"a": "b"}}, {"name": "other"}, {"spec": 2}])
def test_a_change_of_bento_yaml_changes_the_digest(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    one = content_digest(write_bento(tmp_path / "one"))

    assert content_digest(write_bento(tmp_path / "other", **changes)) != one


def test_a_renamed_file_changes_the_digest(tmp_path: Path) -> None:
    root = write_bento(tmp_path)
    before = content_digest(root)

    (root / "src/service.py").rename(root / "src/servicf.py")  # at the same place in the order

    assert content_digest(root) != before


def test_the_model_inside_an_export_does_not_change_the_digest(tmp_path: Path) -> None:
    root = write_bento(tmp_path)
    before = content_digest(root)

    (root / "models/digits").mkdir(parents=True)
    (root / "models/digits/weights").write_text("x")

    assert content_digest(root) == before


@pytest.mark.parametrize("text", ["- a list", "name: x", "{"])
def test_a_directory_that_is_no_bento_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    root = write_bento(tmp_path)
    (root / "bento.yaml").write_text(text)

    with pytest.raises(ReleaseError, match=r"bento\.yaml: .*; "):
        content_digest(root)
