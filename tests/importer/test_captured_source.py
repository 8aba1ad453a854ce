"""A user's source file: what travels with it, and how it is loaded."""

import sys
from pathlib import Path

import pytest

from importer.captured_source import capture_source
from importer.errors import ImportRefused
from preprocessing.isolated_source import load_isolated

FILES = {
    "network.py": "import blocks\nimport deep.inner as inner\nfrom . import heads\nimport numpy\n"
    "def value():\n    from lazy import late\n    return blocks.X + inner.Y + heads.Z + late\n",
    "blocks.py": "from constants import X\n",
    "constants.py": "import blocks\nX = 1\n",
    "deep/__init__.py": "from .side import S\n",
    "deep/side.py": "S = 7\n",
    "deep/inner.py": "from ..above import TEN\nfrom deep.side import S\nY = TEN\n",
    "heads.py": "Z = 100\n",
    "above.py": "TEN = 10\n",
    "lazy.py": "late = 1000\n",
    "train.py": "raise SystemExit('not imported by the network')\n",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write files into a folder, and return its network.py."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "network.py"


def test_files_imported_from_beside_travel_and_load_without_a_trace(tmp_path: Path) -> None:
    # A comment makes the sources, and so the module name, unique to this test.
    file = write(tmp_path, {**FILES, "constants.py": f"{FILES['constants.py']}# {tmp_path}"})
    path_before, modules_before = list(sys.path), set(sys.modules)

    found = capture_source(file).files

    assert found == {name: tmp_path / name for name in sorted(FILES) if name != "train.py"}
    assert set(sys.modules) == modules_before  # nothing ran
    assert load_isolated(file).value() == 1111
    assert sys.path == path_before
    assert not list(tmp_path.rglob("__pycache__"))
    added = set(sys.modules) - modules_before
    assert added
    assert all(name.startswith("captured_") for name in added)


def test_a_file_beside_wins_over_an_installed_package_and_loses_to_the_standard_library(
    tmp_path: Path,
) -> None:
    source = "import json, pytest\nvalue = pytest.OWN + json.loads('1')"
    file = write(
        tmp_path, {"network.py": source, "pytest.py": "OWN = 5", "json.py": "raise OSError"}
    )

    assert load_isolated(file).value == 6
    assert not hasattr(pytest, "OWN")
    assert list(capture_source(file).files) == ["network.py", "pytest.py"]


def test_the_module_name_depends_only_on_the_sources(tmp_path: Path) -> None:
    files = {"network.py": "import blocks", "blocks.py": "X = 3"}
    first, second = (load_isolated(write(tmp_path / place, files)) for place in "ab")

    assert first.__name__ == second.__name__
    assert first.__name__.endswith(".network")
    assert second.blocks.__file__ == str(tmp_path / "b" / "blocks.py")


def test_a_file_that_raises_leaves_no_module(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {"network.py": "import blocks\nraise ValueError('bad depth')", "blocks.py": "X = 1"},
    )
    before = set(sys.modules)

    with pytest.raises(ValueError, match="bad depth"):
        load_isolated(file)

    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"network.py": "from layers_elsewhere import X"}, "'layers_elsewhere' from .*would not t"),
        ({"network.py": "\nfrom ..shared import X"}, r"network\.py, line 2: imports from above"),
        ({"network.py": "def build(:"}, r"network\.py: not valid Python"),
        ({"network.py": "x = '\0'"}, r"network\.py: not valid Python"),
        (
            {"network.py": "import preprocessing", "preprocessing.py": "X = 1"},
            "imports 'preprocessing', which is a file beside it .*; rename the file beside it",
        ),
        ({"network.py": "\nTABLE = '/etc/hostname'"}, "line 2: names /etc"),
    ],
)
def test_a_file_that_could_not_run_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], message: str
) -> None:
    write(tmp_path / "elsewhere", {"layers_elsewhere.py": "X = 1"})
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")

    with pytest.raises(ImportRefused, match=message):
        capture_source(write(tmp_path / "project", files))


def test_modules_that_do_not_travel_are_listed_and_optional_ones_may_be_absent(
    tmp_path: Path,
) -> None:
    files = {
        "network.py": "import json\nimport blocks\nfrom preprocessing import DecodeRules\n"
        "if typing.TYPE_CHECKING:\n    import torch\n"
        "if not TYPE_CHECKING:\n    import onnx\n"
        "try:\n    import absent_package\nexcept ImportError:\n    value = 'without'",
        "blocks.py": "from PIL import Image\ndef late():\n"
        "    import torchvision.transforms.v2, yaml",
    }

    found = capture_source(write(tmp_path, files))

    assert found.imports == ("PIL", "absent_package", "json", "onnx", "torchvision", "yaml")


def test_data_files_that_the_source_names_travel_and_weights_do_not(tmp_path: Path) -> None:
    source = (
        f"HERE = Path(__file__).parent\nNOTE = '{'图' * 200}'\n"  # longer than any file's name
        "FILES = (HERE / 'means.npy', HERE / 'tables/classes.json', HERE / 'weights.pt')\n"
        "SIZES = HERE / 'conf' / 'sizes.json', os.path.join(HERE, 'conf', 'more.json')"
    )
    named = ["conf/more.json", "conf/sizes.json", "means.npy", "tables/classes.json"]
    unnamed = ["weights.pt", "unused.json"]
    file = write(tmp_path, {"network.py": source, **dict.fromkeys([*named, *unnamed], "data")})

    assert list(capture_source(file).files) == sorted([*named, "network.py"])


def test_a_preprocessing_class_may_be_in_preprocessing_py(tmp_path: Path) -> None:
    (tmp_path / "preprocessing.py").write_text("from preprocessing import DecodeRules as rules")

    assert load_isolated(tmp_path / "preprocessing.py").rules.__name__ == "DecodeRules"
