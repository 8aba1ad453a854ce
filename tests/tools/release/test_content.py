"""The digest of a bento's content: every byte changes it. A bento is found by tag or path."""

from pathlib import Path

import pytest

from tests.changes import flip_bit
from tests.imports import ROOT
from tests.programs import run_program
from tests.tools.release.bentos import write_bento
from tools.release import ReleaseError
from tools.release.building import find_bento
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


def test_a_bento_is_found_by_tag_beside_a_folder_of_its_name_and_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    dry_run = run_program("make", "--no-print-directory", "--dry-run", "verify-bento")
    by_default = dry_run.stdout.split()[-1]
    bento = write_bento(tmp_path / "bentos" / "image_classifier" / "0123")
    (bento.parent / "latest").write_text("0123")

    for name in (by_default, "image_classifier:0123", str(bento)):
        assert find_bento(name) == bento
    for name in ("image_classifier:other", "/nope", "docs"):
        with pytest.raises(ReleaseError, match=f"^{name}: .* nor a bento in {tmp_path}/bentos; "):
            find_bento(name)
