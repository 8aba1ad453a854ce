"""The two bentofiles: the same files, each with its own lock."""

from typing import Any

import pytest
import yaml

from tests.imports import ROOT


def bentofile(name: str) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return value


def test_both_pack_the_same_files_except_the_lock() -> None:
    cpu, gpu = bentofile("bentofile.yaml"), bentofile("deploy/bentofile.gpu.yaml")

    assert {name.replace("serve-cpu", "serve-gpu") for name in cpu["include"]} == set(
        gpu["include"]
    )
    assert gpu["service"] == cpu["service"]
    assert gpu["docker"]["dockerfile_template"] == cpu["docker"]["dockerfile_template"]


@pytest.mark.parametrize(
    ("name", "lock"),
    [("bentofile.yaml", "serve-cpu"), ("deploy/bentofile.gpu.yaml", "serve-gpu")],
)
def test_each_installs_the_lock_it_packs(name: str, lock: str) -> None:
    value = bentofile(name)

    assert value["python"] == {
        "requirements_txt": f"deploy/requirements/{lock}.txt",
        "lock_packages": False,
    }
    assert f"/deploy/requirements/{lock}.txt" in value["include"]
    assert not [one for one in value["include"] if "requirements" in one and lock not in one]


def test_settings_of_the_gpu_image_are_settings() -> None:
    from image_classifier.settings import Settings

    assert (
        Settings.from_env(bentofile("deploy/bentofile.gpu.yaml")["docker"]["env"]).topology
        == "runner"
    )


def test_both_name_a_python_the_project_supports() -> None:
    for name in ("bentofile.yaml", "deploy/bentofile.gpu.yaml"):
        assert bentofile(name)["docker"]["python_version"] in ("3.11", "3.12", "3.13")
