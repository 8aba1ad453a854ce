"""The import map of the design and what serving code may hold, executed."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("artifact", "importer", "inference", "preprocessing", "release", "web")
PROGRAMS = ("errors", "model_import", "service", "settings")
ALLOWED: dict[str, set[str]] = {
    "preprocessing": set(),
    "errors": {"preprocessing"},
    "settings": {"preprocessing"},
    "artifact": {"preprocessing"},
    "inference": {"errors", "preprocessing", "artifact"},
    "web": {"errors", "preprocessing", "inference", "artifact"},
    "importer": {"settings", "preprocessing", "artifact", "inference"},
    "model_import": {"settings", "preprocessing", "artifact", "inference", "importer"},
    "release": {"preprocessing", "artifact"},
    "service": {"settings", "preprocessing", "artifact", "inference", "web"},
}
MAY_KNOW_BENTOML = {"service.py", "model_import.py", "artifact/store.py"}
MAY_IMPORT_TORCH_AT_TOP = {"inference/engine_torch.py"}
MODEL_NUMBERS = {0.485, 0.456, 0.406, 0.229, 0.225, 224}
"""ImageNet's: they belong to a model's manifest, never to code that serves any model."""
MAX_PARAMETERS = 5


def modules(*tops: str) -> list[str]:
    """Paths of the modules below `tops`, relative to the root; a top is a package or a file."""
    files = [path for top in tops for path in (ROOT / top).rglob("*.py")]
    files += [ROOT / f"{top}.py" for top in tops if (ROOT / f"{top}.py").is_file()]
    return sorted(path.relative_to(ROOT).as_posix() for path in files)


OURS = modules(*PACKAGES, *PROGRAMS)
SERVING = [
    *modules("inference", "web", "service", "settings"),
    *(f"artifact/{stem}.py" for stem in ("digests", "lock", "manifest", "opened", "store")),
]


def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """First parts of the names that import statements among `nodes` name."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def executed_at_import(module: ast.Module) -> Iterator[ast.AST]:
    """Nodes outside functions and outside `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = list(module.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting.extend(ast.iter_child_nodes(node))


def test_the_map_covers_every_package_and_program_at_the_root() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    programs = {path.stem for path in ROOT.glob("*.py")}

    assert packages | programs == ALLOWED.keys()


@pytest.mark.parametrize("name", OURS)
def test_imports_follow_the_map(name: str) -> None:
    top = name.partition("/")[0].removesuffix(".py")

    ours = imported(ast.walk(tree(name))) & (ALLOWED.keys() | {"benchmarks", "examples", "tests"})

    assert ours - {top} <= ALLOWED[top]


@pytest.mark.parametrize("name", OURS)
def test_imports_between_our_packages_are_absolute(name: str) -> None:
    relative = [
        node.lineno
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ImportFrom) and node.level
    ]

    assert not relative


@pytest.mark.parametrize("name", [name for name in OURS if name not in MAY_KNOW_BENTOML])
def test_only_the_edge_the_command_line_and_the_store_know_bentoml(name: str) -> None:
    assert not {"bentoml", "_bentoml_sdk", "_bentoml_impl"} & imported(ast.walk(tree(name)))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in OURS
        if not name.startswith("importer/") and name not in MAY_IMPORT_TORCH_AT_TOP
    ],
)
def test_torch_is_imported_where_the_reference_runs_and_where_its_engine_does(name: str) -> None:
    assert not {"torch", "torchvision"} & imported(executed_at_import(tree(name)))


@pytest.mark.parametrize("name", OURS)
def test_a_module_begins_with_one_line_that_says_what_it_holds(name: str) -> None:
    docstring = ast.get_docstring(tree(name), clean=False)

    assert docstring
    first, *rest = docstring.split("\n")
    assert first.endswith((".", ":"))
    assert first == first.strip()
    assert len(first) > 10
    assert not rest or rest[0] == ""


@pytest.mark.parametrize("name", OURS)
def test_assert_is_the_verb_of_tests_alone(name: str) -> None:
    assert not [node.lineno for node in ast.walk(tree(name)) if isinstance(node, ast.Assert)]


@pytest.mark.parametrize("name", OURS)
def test_functions_take_few_arguments_by_position(name: str) -> None:
    crowded = {
        node.name: len(node.args.args)
        for node in ast.walk(tree(name))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and len([one for one in node.args.args if one.arg not in ("self", "cls")]) > MAX_PARAMETERS
    }

    assert not crowded


@pytest.mark.parametrize("name", SERVING)
def test_numbers_of_a_model_are_not_in_code_that_serves_models(name: str) -> None:
    numbers = {
        node.value
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Constant) and type(node.value) in (int, float)
    }

    assert not MODEL_NUMBERS & numbers


@pytest.mark.parametrize("name", SERVING)
def test_256_is_no_size_of_a_picture_in_code_that_serves(name: str) -> None:
    # record.py, which is not in the list, limits batch sizes and threads with it.
    assert not [
        node.lineno
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value == 256
    ]


@pytest.mark.parametrize("name", OURS)
def test_names_say_what_a_thing_is(name: str) -> None:
    assert not {"utils", "helpers", "manager", "common", "misc"} & set(Path(name).parts)
    assert Path(name).stem not in {"utils", "helpers", "manager", "common", "misc"}
    assert Path(name).stem not in sys.stdlib_module_names - {"trace"}
