"""Real builds: `make bento`, plain `bentoml build`, the GPU's bentofile, two builds far apart."""

from pathlib import Path

import pytest

from tests.tools.release.bentos import copy_checkout, run

pytestmark = [pytest.mark.all, pytest.mark.xdist_group("builds")]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("release"), digits_folder)


def test_a_plain_build_has_the_content_that_gives_the_sealed_one_its_version(
    checkout: Path,
) -> None:
    tag, digest, path = run(checkout, "tools.release", "build", "--skip-start").splitlines()
    run(checkout, "bentoml", "build", "--version", "plain", umask=0o077)

    plain = run(checkout, "tools.release", "digest", "image_classifier:plain")

    assert digest == f"digest sha256:{plain}"
    assert tag == f"image_classifier:{plain[:16]}"
    assert Path(path).name == plain[:16]
    assert run(checkout, "tools.release", "verify-bento", tag).startswith(f"verified: {tag}, ")
    assert not list(checkout.with_name("home").glob(".image-classifier-*"))


def test_settings_of_the_building_shell_do_not_change_the_bento(checkout: Path) -> None:
    plain = run(checkout, "tools.release", "build", "--skip-start")

    with_settings = run(
        checkout,
        "tools.release",
        "build",
        "--skip-start",
        CLASSIFIER_TOPOLOGY="runner",
        CLASSIFIER_WORKERS="3",
    )

    assert with_settings == plain


def test_the_bento_for_gpus_is_built_from_the_bentofile_in_deploy(checkout: Path) -> None:
    built = run(
        checkout, "tools.release", "build", "--skip-start", "-f", "deploy/bentofile.gpu.yaml"
    )

    tag, _, path = built.splitlines()
    assert tag.startswith("image_classifier_gpu:")
    packed = {file.name for file in (Path(path) / "src/deploy/requirements").iterdir()}
    assert packed == {"serve-gpu.txt"}
    dockerfile = (Path(path) / "env/docker/Dockerfile").read_text()
    assert "ENV CLASSIFIER_TOPOLOGY=runner" in dockerfile


def test_two_builds_in_different_surroundings_are_the_same_bytes(checkout: Path) -> None:
    report = run(checkout, "tools.release", "verify-rebuild")

    assert report.startswith("identical: ")
    assert "umask, locale, " in report
