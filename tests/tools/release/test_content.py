"""The digest of a bento: what changes it and what does not."""

from pathlib import Path

import pytest

from release.content import content_digest
from release.errors import ReleaseError
from tests.release.bentos import DESCRIPTION, write_bento


def test_version_times_permissions_and_the_builders_python_are_not_content(tmp_path: Path) -> None:
    one = write_bento(tmp_path / "one")
    later = "2030-01-01T00:00:00+00:00"
    services = [
        {"models": [{**DESCRIPTION["services"][0]["models"][0], "creation_time": later}]}  # type: ignore[index]
    ]
    other = write_bento(tmp_path / "other", version="next", creation_time=later, services=services)
    (other / "env/python/version.txt").write_text("3.12.1")
    (other / "src/service.py").chmod(0o600)
    (other / "env/python/wheels").mkdir()

    assert content_digest(other) == content_digest(one)


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "apis/schema.json",
        "env/docker/Dockerfile",
        "src/service.py",
        "src/model.lock",  # and so labels and weights, whose digest it holds
        "src/requirements/serve-cpu.txt",
    ],
)
def test_one_bit_of_any_file_is_content(tmp_path: Path, name: str) -> None:
    root = write_bento(tmp_path)
    before = content_digest(root)

    data = bytearray((root / name).read_bytes())
    data[-2] ^= 1
    (root / name).write_bytes(data)

    assert content_digest(root) != before


@pytest.mark.parametrize("changes", [{"labels": {"a": "b"}}, {"name": "other"}, {"spec": 2}])
def test_what_bento_yaml_says_is_content(tmp_path: Path, changes: dict[str, object]) -> None:
    one = content_digest(write_bento(tmp_path / "one"))

    assert content_digest(write_bento(tmp_path / "other", **changes)) != one


def test_a_name_is_content(tmp_path: Path) -> None:
    root = write_bento(tmp_path)
    before = content_digest(root)

    (root / "src/service.py").rename(root / "src/servicf.py")  # at the same place in the order

    assert content_digest(root) != before


def test_the_model_that_an_export_carries_is_not_counted_twice(tmp_path: Path) -> None:
    root = write_bento(tmp_path)
    before = content_digest(root)

    (root / "models/digits").mkdir(parents=True)
    (root / "models/digits/weights").write_text("x")

    assert content_digest(root) == before


@pytest.mark.parametrize("text", ["- a list", "name: x", "{"])
def test_what_is_no_bento_is_refused_by_its_path(tmp_path: Path, text: str) -> None:
    root = write_bento(tmp_path)
    (root / "bento.yaml").write_text(text)

    with pytest.raises(ReleaseError, match=r"bento\.yaml: .*; "):
        content_digest(root)
