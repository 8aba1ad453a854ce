"""A user's preprocessing class at import: its dependencies travel with it, or are refused."""

import re
from pathlib import Path

import pytest

from importer.captured_preprocessing import capture_preprocessing
from importer.errors import ImportRefused
from importer.options import ImportOptions
from preprocessing.errors import OperatorError
from tests.importer.colours import colour_options
from tests.imports import ROOT, digits_options, import_quietly

SOURCE = """
import numpy as np
{imports}
from pathlib import Path
from preprocessing import DecodeRules


class Own:
    decode = DecodeRules(mode="L")
    input_shape = (32, 32, 1)
    input_dtype = "float32"
    mean = None
    std = None

    def to_input(self, image):
        array = np.asarray(image.resize((32, 32)), np.float32)[..., None]
        {steps}
"""
CPU_LOCK = (ROOT / "deploy/requirements/serve-cpu.txt").read_text()
TORCHVISION = f"torchvision==0.29.1 \\\n    --hash=sha256:{'1' * 64}\n"


def capture(folder: Path, imports: str = "", steps: str = "return array", lock: str = "") -> Path:
    """Capture a class into `folder`/staging, and return that."""
    (folder / "own.py").write_text(SOURCE.format(imports=imports, steps=steps))
    (folder / "staging").mkdir()
    if lock:
        (folder / "lock.txt").write_text(lock)
    options = ImportOptions.model_construct(
        preprocessing=f"{folder}/own.py:Own",
        serving_requirements=folder / "lock.txt" if lock else None,
    )
    capture_preprocessing(options, None, folder / "staging")
    return folder / "staging"


@pytest.mark.parametrize(
    ("imports", "lock", "message"),
    [
        ("import scipy, torch", "", "imports scipy, torch, which .* serve-cpu.txt"),
        ("import scipy", CPU_LOCK + TORCHVISION, r"imports scipy, which .* lock is lock\.txt"),
        ("import torchvision", TORCHVISION, r"lock\.txt: lacks .* of serve-cpu\.txt, without whi"),
        ("import torchvision", "torchvision==0.29.1\n", "is not pinned with a hash"),
        ("import torchvision", "<html>\n", "'<html>' is not pinned with a hash"),
    ],
)
def test_packages_missing_from_the_bento_are_refused_by_name(
    tmp_path: Path, imports: str, lock: str, message: str
) -> None:
    with pytest.raises(ImportRefused, match=message):
        capture(tmp_path, imports, lock=lock)


def test_a_lock_with_the_package_becomes_part_of_the_artifact(store: Path, tmp_path: Path) -> None:
    # The lock names distributions: pillow for PIL, pyyaml for yaml.
    staging = capture(tmp_path, "import json, torchvision, PIL, yaml", lock=CPU_LOCK + TORCHVISION)

    kept = staging / "preprocessing" / "requirements.txt"
    assert kept.read_text() == CPU_LOCK + TORCHVISION
    with pytest.raises(ImportRefused, match="belongs to a preprocessing class; leave it out"):
        import_quietly(
            digits_options(
                preprocessing="torchvision:resnet18", serving_requirements=tmp_path / "lock.txt"
            ),
            tmp_path / "model.lock",
        )


@pytest.mark.parametrize(
    ("imports", "steps"),
    [
        ("TABLE = np.load('means.npy')", "return array"),
        ("", "return array - np.load(Path(__file__).parent / ('mea' + 'ns.npy'))"),
    ],
    ids=["at import, relative", "at each image, name in parts"],
)
def test_a_data_file_that_would_not_be_found_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imports: str, steps: str
) -> None:
    (tmp_path / "means.npy").write_bytes(b"data")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(OperatorError, match=r"means\.npy.*Path\(__file__\)\.parent / 'NAME'"):
        capture(tmp_path, imports, steps)


def test_a_class_that_decodes_a_part_or_asks_for_the_name_of_the_file_is_refused(
    tmp_path: Path, store: Path
) -> None:
    with pytest.raises(ImportRefused, match=r"own\.py: calls draft, .*shrink_jpeg_to_side=SIDE"):
        capture(tmp_path, steps="image.draft('L', (32, 32)); return array")
    options = colour_options(tmp_path, own="pixels * ('left' in image.filename)")
    with pytest.raises(ImportRefused, match="has no attribute 'filename'"):
        import_quietly(options, tmp_path / "model.lock")


def test_a_wrong_array_is_reported_in_one_line(store: Path, tmp_path: Path) -> None:
    options = colour_options(tmp_path, own="pixels.transpose(2, 0, 1)")

    with pytest.raises(ImportRefused) as caught:
        import_quietly(options, tmp_path / "model.lock")

    assert re.fullmatch(
        r"preprocessing, on golden image b/\S+: .* uint8 of shape \(3, 4, 4\), the class declares "
        r".*; to_input returns one numpy array \(H, W, C\): .*\.astype\(np\.float32\)",
        str(caught.value),
    )


def test_a_class_may_reject_the_blank_image_of_the_trial_run(tmp_path: Path) -> None:
    steps = "raise UndecodableImage('too plain')"

    assert capture(tmp_path, "from preprocessing.errors import UndecodableImage", steps).is_dir()
