"""A sealed bento: its version is its content, and every later change is found."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from image_classifier.artifact.format import ArtifactError
from tests.changes import edit_json, flip_bit
from tests.tools.release.bentos import MODEL, MODEL_DIGEST, MODEL_TAG, write_bento
from tools.release import ReleaseError
from tools.release.content import content_digest
from tools.release.manifest import verify_bento
from tools.release.sealing import seal


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    root = write_bento(tmp_path / "bento")
    seal(root, "c0ffee")
    return root


def test_bentos_that_differ_only_in_version_times_modes_and_python_become_the_same_bytes(
    tmp_path: Path,
) -> None:
    one = write_bento(tmp_path / "one")
    later = "2030-01-01T00:00:00+00:00"
    services = [{"models": [{"tag": MODEL_TAG, "creation_time": later}]}]
    other = write_bento(tmp_path / "other", version="x", creation_time=later, services=services)
    (other / "env/python/version.txt").write_text("3.13.0")
    (other / "src/service.py").chmod(0o600)
    (other / "src").chmod(0o700)
    (other / "env/python/wheels").mkdir()

    seal(one, "c0ffee")
    seal(other, "c0ffee")

    assert facts(one) == facts(other)


def facts(root: Path) -> dict[str, tuple[str, int, float]]:
    return {
        path.relative_to(root).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mode,
            path.stat().st_mtime,
        )
        for path in [root, *root.rglob("*")]
    }


def test_the_manifest_names_model_commit_and_every_file_and_the_digest_is_the_version(
    sealed: Path, tmp_path: Path
) -> None:
    before = content_digest(write_bento(tmp_path / "unsealed"))

    verified = verify_bento(sealed)

    assert verified.digest == content_digest(sealed) == before
    assert verified.version == before[:16]
    assert yaml.safe_load((sealed / "bento.yaml").read_text())["version"] == before[:16]
    manifest = json.loads((sealed / "manifest.json").read_bytes())

    assert manifest["model"]["tag"] == MODEL_TAG
    assert manifest["model"]["manifest_sha256"] == MODEL_DIGEST
    assert manifest["source_commit"] == "c0ffee"
    files = {p.relative_to(sealed).as_posix() for p in sealed.rglob("*") if p.is_file()}
    assert manifest["files"].keys() == files - {"manifest.json"}
    service = hashlib.sha256(b"pass\n").hexdigest()
    assert manifest["files"]["src/service.py"] == service


def flip(name: str) -> Callable[[Path], None]:
    return lambda root: flip_bit(root / name)


def edit_manifest(**changes: object) -> Callable[[Path], None]:
    return lambda root: edit_json(root / "manifest.json", **changes)


def change_and_update_the_list(root: Path) -> None:
    """What someone does who knows the manifest, but not that the version is the digest."""
    (root / "src/service.py").write_text("import os\n")
    files = json.loads((root / "manifest.json").read_bytes())["files"]
    files["src/service.py"] = hashlib.sha256(b"import os\n").hexdigest()
    edit_json(root / "manifest.json", files=files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(flip("src/service.py"), "changed: src/service.py", id="code"),
        pytest.param(flip("sbom.json"), "changed: sbom.json", id="sbom"),
        pytest.param(lambda root: (root / "README.md").unlink(), "missing: README.md", id="gone"),
        pytest.param(lambda root: (root / "src/x.py").write_text(""), "extra: src/x.py", id="more"),
        pytest.param(
            lambda root: (root / "src/x").symlink_to("/etc/passwd"), "not a plain file", id="link"
        ),
        pytest.param(edit_manifest(version="0" * 16), "version is 0000", id="version"),
        pytest.param(edit_manifest(digest="0" * 64), "digest is 0000", id="digest"),
        pytest.param(edit_manifest(name="other"), "name in bento.yaml", id="name"),
        pytest.param(
            edit_manifest(model={**MODEL, "evidence_sha256": "0" * 64}),
            "model is ",
            id="model",
        ),
        pytest.param(edit_manifest(more=1), "more", id="unknown-key"),
        pytest.param(change_and_update_the_list, "digest is ", id="list-updated"),
        pytest.param(lambda root: (root / "manifest.json").unlink(), "make bento", id="plain"),
    ],
)
def test_a_change_after_sealing_is_named(
    sealed: Path, change: Callable[[Path], object], message: str
) -> None:
    change(sealed)

    with pytest.raises(ReleaseError) as caught:
        verify_bento(sealed)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_inside_that_is_not_the_locked_one_is_refused(sealed: Path) -> None:
    folder = sealed / "models" / MODEL_TAG.replace(":", "/")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")

    with pytest.raises(ArtifactError, match=r"sha256 is .*, expected abab"):
        verify_bento(sealed)


def test_the_sbom_lists_the_locked_packages_the_model_and_no_time(sealed: Path) -> None:
    document = json.loads((sealed / "sbom.json").read_bytes())

    parts = {part["bom-ref"]: part for part in document["components"]}
    assert parts.keys() == {
        f"model:{MODEL_TAG}",
        "pkg:pypi/numpy@2.4.6",
        "pkg:pypi/pillow@13.0.0",
    }
    assert [one["content"] for one in parts["pkg:pypi/numpy@2.4.6"]["hashes"]] == [
        "1" * 64,
        "2" * 64,
    ]
    assert parts[f"model:{MODEL_TAG}"]["hashes"] == [{"alg": "SHA-256", "content": MODEL_DIGEST}]
    assert "timestamp" not in document["metadata"]


def test_the_sbom_fits_the_schema_of_cyclonedx(sealed: Path) -> None:
    schema = pytest.importorskip("cyclonedx.schema", reason="cyclonedx-python-lib is not there")
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(schema.SchemaVersion.V1_6)

    assert validator.validate_str((sealed / "sbom.json").read_text()) is None
