"""The tag depends on everything that decides an answer, not on the machine or this program."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from PIL.JpegImagePlugin import JpegImageFile

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.store import read_lock
from image_classifier.inference.startup import (
    SelfCheckFailed,
    check_preprocessing,
    load_executor,
)
from tests.imports import DIGITS, ROOT, command_line, digits_options
from tests.programs import run_program

OLD_CPU = {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
"""oneDNN and ATen as on a processor without AVX: sums have other last bits."""


@pytest.fixture(scope="module")
def artifact(digits_folder: Path) -> Artifact:
    return open_artifact(digits_folder)


@pytest.mark.slow
def test_the_tag_is_the_same_on_another_processor_and_in_the_readme(
    tmp_path: Path, digits_folder: Path
) -> None:
    # In another process and folder, and Python may write bytecode.
    options = command_line(digits_options(lock=tmp_path / "model.lock"))
    command = [sys.executable, str(ROOT / "model_import.py"), *options, "--json"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = {**kept, **OLD_CPU, "BENTOML_HOME": str(tmp_path)}

    done = run_program(*command, cwd=tmp_path, env=environment)

    assert done.returncode == 0, done.stderr
    result, lock = json.loads(done.stdout), read_lock(tmp_path / "model.lock")
    assert lock.tag == result["tag"] == f"digits:{digits_folder.name}"
    assert re.findall(r'"tag": "(digits:\w+)"', (ROOT / "README.md").read_text()) == [lock.tag]
    assert [row["verdict"] for row in result["record"]["attempts"]] == ["passed", "passed"]
    folder = tmp_path / "models" / lock.tag.replace(":", "/")
    assert open_artifact(folder, lock.manifest_sha256, lock.evidence_sha256).record
    assert not list(tmp_path.rglob("*.pyc"))


def test_a_pillow_that_decodes_differently_stops_the_start_with_the_names_of_the_cases(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = JpegImageFile.load

    def load_with_one_magenta_pixel(self: JpegImageFile) -> object:
        loaded = load(self)
        if self.mode == "RGB":
            self.im.putpixel((0, 0), (255, 0, 255))
        return loaded

    monkeypatch.setattr(JpegImageFile, "load", load_with_one_magenta_pixel)

    with pytest.raises(SelfCheckFailed, match=r"other pixels .*\(decode/jpeg-") as refused:
        load_executor(artifact, engine=None, budget_ms=50, deterministic=True)
    assert "png" not in str(refused.value)
    assert "import the model again" in str(refused.value)


def test_golden_images_with_other_pixels_are_refused_even_if_the_conformance_cases_agree(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "image_classifier.inference.startup.conformance_digests",
        lambda _: artifact.manifest.conformance,
    )
    to_input = artifact.preprocessing.to_input
    monkeypatch.setattr(
        artifact.preprocessing, "to_input", lambda image: to_input(image)[:, ::-1].copy()
    )

    with pytest.raises(SelfCheckFailed, match=r"golden sample 0-01\.png: .* other pixels"):
        check_preprocessing(artifact, artifact.preprocessing)


def test_the_identity_holds_the_users_files_and_none_of_this_program(artifact: Artifact) -> None:
    names = {name.rpartition("/")[0] for name in artifact.manifest.files}
    own = artifact.path_of("preprocessing/own/preprocessing.py").read_bytes()

    assert names == {"", "architecture", "engines", "golden", "preprocessing/own"}
    assert own == (DIGITS / "preprocessing.py").read_bytes()
