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


def sources_of(file: Path) -> dict[str, Path]:
    return capture_source(file).files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {**FILES, "constants.py": f"{FILES['constants.py']}# {tmp_path}"}.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "project"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder / "network.py"


def test_all_files_that_are_imported_beside_travel_and_no_others_and_none_runs(
    folder: Path,
) -> None:
    found = sources_of(folder / "network.py")

    assert list(found) == sorted(FILES.keys() - {"train.py"})
    assert all(path == folder / name for name, path in found.items())
    assert load_isolated(folder / "network.py").value() == 1111


def test_loading_leaves_path_and_common_names_alone(folder: Path) -> None:
    path_before, names_before = list(sys.path), set(sys.modules)
    files_before = sorted(folder.rglob("*"))

    load_isolated(folder / "network.py").value()

    assert sys.path == path_before
    assert sorted(folder.rglob("*")) == files_before  # no bytecode
    added = set(sys.modules) - names_before
    assert added
    assert all(name.startswith("captured_") for name in added)


def test_a_file_beside_wins_over_an_installed_package_and_loses_to_the_standard_library(
    tmp_path: Path,
) -> None:
    file = write(
        tmp_path,
        network="import json, pytest\nvalue = pytest.OWN + json.loads('1')",
        pytest="OWN = 5",
        json="raise OSError",
    )

    assert load_isolated(file).value == 6
    assert not hasattr(pytest, "OWN")
    assert list(sources_of(file)) == ["network.py", "pytest.py"]


def test_the_module_name_depends_on_the_sources_alone(tmp_path: Path) -> None:
    modules = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        file = write(tmp_path / place, network="import blocks", blocks="X = 3")
        modules.append(load_isolated(file))

    assert modules[0].__name__ == modules[1].__name__
    assert modules[0].__name__.endswith(".network")
    assert modules[1].__file__ == str(tmp_path / "b" / "network.py")
    assert modules[1].blocks.__file__ == str(tmp_path / "b" / "blocks.py")


def test_a_file_that_fails_is_quoted_and_leaves_no_module(tmp_path: Path) -> None:
    file = write(tmp_path, network="import blocks\nraise ValueError('bad depth')", blocks="X = 1")
    before = set(sys.modules)

    with pytest.raises(ValueError, match="bad depth"):
        load_isolated(file)

    assert set(sys.modules) == before


def test_code_that_is_neither_installed_nor_beside_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "my_layers_elsewhere.py").write_text("X = 1")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    file = write(tmp_path, network="from my_layers_elsewhere import X")

    with pytest.raises(ImportRefused, match=r"'my_layers_elsewhere' from .*would not travel"):
        sources_of(file)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"network": "\nfrom ..shared import X"},
            r"network\.py, line 2: imports from above its fol",
        ),
        ({"network": "def build(:"}, r"network\.py: not valid Python"),
        ({"network": "x = '\0'"}, r"network\.py: not valid Python"),
        (
            {"network": "import preprocessing", "preprocessing": "X = 1"},
            "imports 'preprocessing', which is a file beside it .*; give the file beside it ano",
        ),
    ],
)
def test_a_file_that_could_not_run_elsewhere_is_refused(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(ImportRefused, match=message):
        sources_of(write(tmp_path, **files))


def test_the_modules_that_do_not_travel_are_named_and_an_optional_one_may_be_absent(
    tmp_path: Path,
) -> None:
    file = write(
        tmp_path,
        network="import json\nimport blocks\nfrom preprocessing import DecodeRules\n"
        "try:\n    import absent_package\nexcept ImportError:\n    value = 'without'",
        blocks="from PIL import Image\ndef late():\n    import torchvision.transforms.v2, yaml",
    )

    found = capture_source(file)

    assert found.imports == ("PIL", "absent_package", "json", "torchvision", "yaml")
    assert load_isolated(file).value == "without"


def test_data_files_that_the_source_names_travel_and_weights_do_not(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "conf").mkdir()
    tables = ("means.npy", "tables/classes.json", "conf/sizes.json", "conf/more.json")
    for name in (*tables, "weights.pt", "unused.json"):
        (tmp_path / name).write_bytes(b"data")
    file = write(
        tmp_path,
        network="HERE = Path(__file__).parent\n"
        "FILES = (HERE / 'means.npy', HERE / 'tables/classes.json', HERE / 'weights.pt')\n"
        "SIZES = HERE / 'conf' / 'sizes.json', os.path.join(HERE, 'conf', 'more.json')",
    )

    travelling = ["conf/more.json", "conf/sizes.json", "means.npy", "network.py"]
    assert list(sources_of(file)) == [*travelling, "tables/classes.json"]


def test_a_file_of_this_machine_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.json").touch()
    (tmp_path / "project").mkdir()
    file = write(tmp_path / "project", network=f"\nTABLE = {str(tmp_path / 'elsewhere.json')!r}")

    with pytest.raises(ImportRefused, match=r"network\.py, line 2: names /.*copy it beside"):
        capture_source(file)


def test_a_module_that_imports_its_own_folder_says_which_file_to_give(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    file = write(tmp_path / "models", network="from models.blocks import X", blocks="X = 1")

    with pytest.raises(
        ImportRefused,
        match=r"write /.*/entry\.py with `from models\.network import \*` and give that",
    ):
        capture_source(file)

    (tmp_path / "entry.py").write_text("from models.network import *\n")
    assert list(sources_of(tmp_path / "entry.py")) == [
        "entry.py",
        "models/blocks.py",
        "models/network.py",
    ]
    assert load_isolated(tmp_path / "entry.py").X == 1


def test_a_preprocessing_class_may_lie_in_preprocessing_py(tmp_path: Path) -> None:
    (tmp_path / "preprocessing.py").write_text("from preprocessing import DecodeRules as rules")

    assert load_isolated(tmp_path / "preprocessing.py").rules.__name__ == "DecodeRules"
