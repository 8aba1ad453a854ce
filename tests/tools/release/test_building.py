"""Real builds: `make bento`, plain `bentoml build`, and two builds far apart."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imports import PATIENCE_S
from tests.service.places import Place, copy_checkout, import_digits
from tests.service.server import Server, refused_start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("release")
    place = Place(directory=root / "checkout", home=root / "home")
    copy_checkout(place.directory)
    import_digits(place)
    return place


def run(place: Place, *words: str, umask: int = 0o022) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=place.directory,
        env=place.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        umask=umask,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_plain_build_has_the_content_that_names_the_sealed_one(place: Place) -> None:
    tag, digest, path = run(place, "release", "build").splitlines()
    run(place, "bentoml", "build", "--version", "plain", umask=0o077)

    plain = run(place, "release", "digest", "image_classifier:plain")

    assert digest == f"digest sha256:{plain}"
    assert tag == f"image_classifier:{plain[:16]}"
    assert Path(path).name == plain[:16]
    assert run(place, "release", "verify-bento", tag).startswith(f"verified: {tag}, ")
    assert not list(place.home.glob(".image-classifier-*"))


def test_an_operators_settings_do_not_show_in_the_bento(place: Place) -> None:
    once = run(place, "release", "build")
    environment = place.environment(topology="runner", default_top_k=3)

    again = subprocess.run(
        [sys.executable, "-m", "release", "build"],
        cwd=place.directory,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert again.stdout.strip() == once


@pytest.mark.parametrize("name", ["service.py", "requirements/serve-cpu.txt"])
def test_a_comment_in_the_sources_makes_another_version(
    place: Place, tmp_path: Path, name: str
) -> None:
    changed = Place(directory=tmp_path / "checkout", home=place.home)
    shutil.copytree(place.directory, changed.directory)
    with (changed.directory / name).open("a") as file:
        file.write("#\n")

    assert (
        run(changed, "release", "build").splitlines()[0]
        != (run(place, "release", "build").splitlines()[0])
    )


def test_two_builds_in_different_surroundings_are_the_same_bytes(place: Place) -> None:
    said = run(place, "release", "verify-rebuild")

    assert said.startswith("identical: ")
    assert "umask, locale, " in said


def test_a_label_that_changes_makes_another_model_and_another_bento(
    place: Place, tmp_path: Path
) -> None:
    changed = Place(directory=tmp_path / "checkout", home=tmp_path / "home")
    shutil.copytree(place.directory, changed.directory)
    labels = changed.directory / "examples/digits/labels.txt"
    labels.write_text(labels.read_text().replace("9", "nine"))
    import_digits(changed)

    assert changed.tag != place.tag
    before = run(place, "release", "build").splitlines()[0]
    assert run(changed, "release", "build").splitlines()[0] != before


def test_a_start_with_a_key_wants_its_signature_whole(place: Place, tmp_path: Path) -> None:
    private = tmp_path / "key.pem"
    run(place, "release", "keygen", str(private))
    run(place, "release", "sign", str(private))
    signature = place.artifact / "model.sig"
    with Server(place, public_key=private.with_suffix(".pub")) as server:
        assert server.client.get("/model").status_code == 200
    envelope = json.loads(signature.read_bytes())
    envelope["dsseEnvelope"]["payload"] = "e30="
    signature.write_text(json.dumps(envelope))

    line = refused_start(place, public_key=private.with_suffix(".pub"))

    assert "model.sig: the signature is not one of CLASSIFIER_PUBLIC_KEY" in line
    signature.unlink()
    line = refused_start(place, public_key=private.with_suffix(".pub"))
    assert "model.sig: No such file or directory; CLASSIFIER_PUBLIC_KEY is set" in line
