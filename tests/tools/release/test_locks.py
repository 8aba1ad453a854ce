"""The requirement locks of this project, and what `lock-check` finds in others."""

import shutil
from pathlib import Path

import pytest

from release.errors import ReleaseError
from release.locks import check_locks, read_requirements
from tests.imports import ROOT

REQUIREMENTS = ROOT / "requirements"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Locks of one package, all in order."""
    for name in ("serve-cpu", "serve-gpu", "dev"):
        (tmp_path / f"{name}.in").write_text("numpy>=2 # a reason\n")
        (tmp_path / f"{name}.txt").write_text(f"numpy==2.4.6 \\\n    --hash=sha256:{'1' * 64}\n")
    return tmp_path


def test_the_locks_of_the_project_are_in_order() -> None:
    assert check_locks(REQUIREMENTS) > 200


def test_the_lock_for_cpus_has_neither_torch_nor_uvloop() -> None:
    names = {pin.name for pin in read_requirements(REQUIREMENTS / "serve-cpu.txt")}

    assert {"bentoml", "openvino", "onnxruntime", "cryptography"} <= names
    assert not {"torch", "torchvision", "uvloop", "nvidia-cublas"} & names


def test_locks_in_order_are_counted(folder: Path) -> None:
    assert check_locks(folder) == 3


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        pytest.param("serve-cpu.txt", "numpy==2.4.6\n", "not pinned with a hash", id="no-hash"),
        pytest.param(
            "serve-cpu.txt", f"numpy>=2 --hash=sha256:{'1' * 64}\n", "not pinned", id="no-pin"
        ),
        pytest.param(
            "serve-gpu.txt",
            f"numpy==2.4.5 --hash=sha256:{'1' * 64}\n",
            "pins numpy 2.4.5, dev.txt does not",
            id="other-version-than-tested",
        ),
        pytest.param("dev.in", "numpy\npillow\n", "dev.txt: has nothing for pillow", id="new-in"),
        pytest.param("dev.in", "numpy>=3\n", "dev.txt: has 2.4.6 for numpy>=3", id="raised-in"),
        pytest.param(
            "serve-cpu.in", "-r dev.in\npyyaml\n", "has nothing for pyyaml", id="after-another"
        ),
    ],
)
def test_drift_is_named(folder: Path, name: str, text: str, said: str) -> None:
    (folder / name).write_text(text)

    with pytest.raises(ReleaseError) as caught:
        check_locks(folder)

    assert said in str(caught.value)


def test_uvloop_in_the_serving_lock_is_refused(folder: Path) -> None:
    for name in ("serve-cpu", "dev"):
        with (folder / f"{name}.txt").open("a") as file:
            file.write(f"uvloop==1.0 --hash=sha256:{'2' * 64}\n")

    with pytest.raises(ReleaseError, match="holds uvloop, which must stay out"):
        check_locks(folder)


def test_a_pin_for_another_platform_need_not_be_in_the_development_lock(folder: Path) -> None:
    with (folder / "serve-gpu.txt").open("a") as file:
        file.write(f"pywin32==1 ; sys_platform == 'win32' --hash=sha256:{'2' * 64}\n")

    assert check_locks(folder) == 4


def test_an_include_of_another_input_is_followed(folder: Path) -> None:
    shutil.copy(folder / "dev.in", folder / "base.in")
    (folder / "dev.in").write_text("-r base.in\n")

    assert check_locks(folder) == 3
