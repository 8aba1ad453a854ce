"""Real builds: `make bento`, `bentoml build`, the GPU's bentofile, a rebuild."""

import re
from pathlib import Path

import pytest

from tests.changes import flip_bit
from tests.service.places import NewPlace, Place
from tools.release.content import content_digest

pytestmark = [pytest.mark.all, pytest.mark.xdist_group("builds")]
RELEASE = ("-m", "tools.release")


@pytest.fixture(scope="module")
def place(new_place: NewPlace) -> Place:
    return new_place()


def test_plain_and_sealed_builds_have_the_same_content_in_any_shell(
    place: Place,
) -> None:
    tag, digest, path = place.run(*RELEASE, "build", "--skip-start").splitlines()
    place.run("-m", "bentoml", "build", "--version", "plain", umask=0o077)
    flip_bit(Path(path) / "src/service.py")  # the next build replaces the damaged bento
    with_settings = place.run(*RELEASE, "build", "--skip-start", topology="runner", workers=3)

    plain = content_digest(place.home / "bentos" / "image_classifier" / "plain")

    assert digest == f"digest sha256:{plain}"
    assert tag == f"image_classifier:{plain[:16]}"
    assert Path(path).name == plain[:16]
    assert with_settings.splitlines() == [tag, digest, path]
    assert (Path(path).parent / "latest").read_text() == Path(path).name  # not "plain"
    assert place.run(*RELEASE, "verify-bento", tag).startswith(f"verified: {tag}, ")
    assert not list(place.home.glob(".image-classifier-*"))


def test_the_bento_for_gpus_is_built_from_the_bentofile_in_deploy(place: Place) -> None:
    built = place.run(*RELEASE, "build", "--skip-start", "-f", "deploy/bentofile.gpu.yaml")

    tag, _, path = built.splitlines()
    assert tag.startswith("image_classifier_gpu:")
    packed = {file.name for file in (Path(path) / "src/deploy/requirements").iterdir()}
    assert packed == {"serve-gpu.txt"}
    dockerfile = (Path(path) / "env/docker/Dockerfile").read_text()
    assert "ENV NVIDIA_VISIBLE_DEVICES=all" in dockerfile


def test_two_builds_in_different_surroundings_are_identical(place: Place) -> None:
    report = place.run(*RELEASE, "verify-rebuild")

    assert report.startswith("identical: ")
    assert "umask, locale, " in report


def test_a_bento_without_a_needed_package_is_not_built(
    new_place: NewPlace,
) -> None:
    place = new_place()
    lock = place.directory / "deploy" / "requirements" / "serve-cpu.txt"
    complete = lock.read_text()
    lock.write_text(re.sub(r"^pillow==.*(\n    --hash.*)*\n", "", complete, flags=re.MULTILINE))

    message = r"✓ build the bento (.*\n)+.*the finished bento: ended with"
    with pytest.raises(AssertionError, match=message):
        place.run(*RELEASE, "build")
    assert not list(place.home.glob("bentos/*/*"))
    lock.write_text(complete)

    *_, last = place.run(*RELEASE, "build").splitlines()
    assert last == "started once with the packages of its lock: it classified a golden image"
