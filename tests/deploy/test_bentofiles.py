"""The two bentofiles pack the same files, each with its own lock."""

from typing import Any

import yaml

from tests.imports import ROOT


def test_both_pack_the_same_files_and_their_own_lock() -> None:
    values: dict[str, dict[str, Any]] = {
        lock: yaml.safe_load((ROOT / name).read_text())
        for lock, name in (
            ("serve-cpu", "bentofile.yaml"),
            ("serve-gpu", "deploy/bentofile.gpu.yaml"),
        )
    }
    cpu, gpu = values["serve-cpu"], values["serve-gpu"]

    included = {path.replace("serve-cpu", "serve-gpu") for path in cpu["include"]}
    assert included == set(gpu["include"])
    assert gpu["service"] == cpu["service"]
    assert gpu["docker"]["dockerfile_template"] == cpu["docker"]["dockerfile_template"]
    for lock, value in values.items():
        path = f"deploy/requirements/{lock}.txt"
        assert value["python"] == {"requirements_txt": path, "lock_packages": False}
        assert [each for each in value["include"] if "requirements" in each] == [f"/{path}"]
        assert value["docker"]["python_version"] in ("3.11", "3.12", "3.13")
    assert gpu["docker"]["env"]["NVIDIA_VISIBLE_DEVICES"] == "all"
