"""A sealed bento: its version is the digest of its content, and later changes are found."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from image_classifier.artifact.format import ArtifactError
from importer.errors import ImportRefused
from tests.changes import flip_bit
from tests.tools.release.bentos import MODEL_DIGEST, MODEL_TAG, write_bento
from tools.release import ReleaseError
from tools.release.content import content_digest
from tools.release.sealing import recorded_commit, seal, verify_bento


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    root = write_bento(tmp_path / "bento")
    seal(root, "c0ffee")
    return root


def test_bentos_that_differ_only_in_version_times_modes_and_python_become_the_same_bytes(
    tmp_path: Path,
) -> None:
    first = write_bento(tmp_path / "first")
    later = "2030-01-01T00:00:00+00:00"
    services = [{"models": [{"tag": MODEL_TAG, "creation_time": later}]}]
    second = write_bento(tmp_path / "second", version="x", creation_time=later, services=services)
    (second / "env/python/version.txt").write_text("3.13.0")
    (second / "src/service.py").chmod(0o600)
    (second / "src").chmod(0o700)
    (second / "env/python/wheels").mkdir()

    seal(first, "c0ffee")
    seal(second, "c0ffee")

    assert facts(first) == facts(second)


def facts(root: Path) -> dict[str, tuple[str, int, float]]:
    return {
        path.relative_to(root).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mode,
            path.stat().st_mtime,
        )
        for path in [root, *root.rglob("*")]
    }


def test_the_version_is_the_digest_of_the_content(tmp_path: Path, sealed: Path) -> None:
    digest = content_digest(write_bento(tmp_path / "unsealed"))

    assert verify_bento(sealed) == content_digest(sealed) == digest
    assert yaml.safe_load((sealed / "bento.yaml").read_text())["version"] == digest[:16]
    assert recorded_commit(sealed) == "c0ffee"


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return change


def plain(root: Path) -> None:
    """A bento as `bentoml build` leaves it."""
    write_bento(root)
    (root / "sbom.json").unlink()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param(lambda root: flip_bit(root / "src/service.py"), "bento.yaml", id="code"),
        pytest.param(lambda root: (root / "README.md").unlink(), "bento.yaml", id="missing"),
        pytest.param(lambda root: (root / "src/x.py").touch(), "bento.yaml", id="extra"),
        pytest.param(edit("bento.yaml", "version: ", "version: 0"), "bento.yaml", id="version"),
        pytest.param(edit("bento.yaml", "name: image", "name: other"), "bento.yaml", id="name"),
        pytest.param(plain, "bento.yaml", id="plain"),
        pytest.param(edit("bento.yaml", "1980-01-01", "1980-01-02"), "bento.yaml", id="time"),
        pytest.param(edit("env/python/version.txt", "3", "4"), "version.txt", id="python"),
        pytest.param(edit("sbom.json", "numpy", "pandas"), "sbom.json", id="sbom"),
        pytest.param(lambda root: (root / "sbom.json").unlink(), "sbom.json", id="gone"),
    ],
)
def test_a_change_after_sealing_is_refused(
    sealed: Path, change: Callable[[Path], object], name: str
) -> None:
    change(sealed)

    with pytest.raises(ReleaseError) as caught:
        verify_bento(sealed)

    message = str(caught.value)
    assert f"{name}: does not fit the content, whose digest is {content_digest(sealed)}" in message
    assert "\n" not in message


def test_a_bento_without_its_lock_is_refused_in_one_line(sealed: Path) -> None:
    (sealed / "src/deploy/requirements/serve-cpu.txt").unlink()

    with pytest.raises(ImportRefused, match=r"serve-cpu\.txt: No such file"):
        verify_bento(sealed)


def test_a_link_in_a_bento_is_refused(sealed: Path) -> None:
    (sealed / "src/x").symlink_to("/etc/passwd")

    with pytest.raises(ReleaseError, match="src/x: not a plain file"):
        verify_bento(sealed)


def test_a_model_inside_that_is_not_the_locked_one_is_refused(sealed: Path) -> None:
    folder = sealed / "models" / MODEL_TAG.replace(":", "/")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")

    with pytest.raises(ArtifactError, match=r"sha256 is .*, expected abab"):
        verify_bento(sealed)


def test_the_sbom_lists_the_locked_packages_the_model_and_the_commit(sealed: Path) -> None:
    document = json.loads((sealed / "sbom.json").read_bytes())

    parts = {part["bom-ref"]: part for part in document["components"]}
    assert parts.keys() == {
        f"model:{MODEL_TAG}",
        "pkg:pypi/numpy@2.4.6",
        "pkg:pypi/pillow@13.0.0",
    }
    hashes = [entry["content"] for entry in parts["pkg:pypi/numpy@2.4.6"]["hashes"]]
    assert hashes == ["1" * 64, "2" * 64]
    assert parts[f"model:{MODEL_TAG}"]["hashes"] == [{"alg": "SHA-256", "content": MODEL_DIGEST}]
    assert "timestamp" not in document["metadata"]
    assert document["metadata"]["component"]["pedigree"] == {"commits": [{"uid": "c0ffee"}]}


def test_the_sbom_fits_the_schema_of_cyclonedx(sealed: Path) -> None:
    schema = pytest.importorskip("cyclonedx.schema", reason="cyclonedx-python-lib is not there")
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(schema.SchemaVersion.V1_6)

    assert validator.validate_str((sealed / "sbom.json").read_text()) is None
