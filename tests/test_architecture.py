"""The structure of DESIGN, executed: who may import whom, and what serving code may hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALLOWED: dict[str, set[str]] = {
    "preprocessing": set(),
    "image_classifier": {"preprocessing"},
    "importer": {"image_classifier", "preprocessing"},
    "tools": {"image_classifier", "preprocessing", "importer"},
    "service": {"image_classifier", "preprocessing"},
    "model_import": {"image_classifier", "importer", "preprocessing"},
}
LAYERS = ("artifact", "inference", "http")
"""Folders of image_classifier, each of which may import those before it."""
MAY_KNOW_BENTOML = {
    "service.py",
    "image_classifier/bentoml_compat.py",
    "image_classifier/artifact/store.py",
}
MODEL_NUMBERS = {0.485, 0.456, 0.406, 0.229, 0.225, 224}
"""ImageNet's: they belong to a model's manifest, never to code that serves any model."""


def modules(*tops: str) -> dict[str, ast.Module]:
    """Path relative to the root -> syntax tree, of the packages and files called `tops`."""
    files = [path for top in tops for path in (ROOT / top).rglob("*.py")]
    files += [ROOT / f"{top}.py" for top in tops if (ROOT / f"{top}.py").is_file()]
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(files)
    }


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Dotted names of the modules that import statements among `nodes` name."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
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


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_packages_import_only_what_lies_below_them() -> None:
    ours = ALLOWED.keys() | {"tests", "examples"}

    for name, module in modules(*ALLOWED).items():
        top = name.partition("/")[0].removesuffix(".py")
        assert tops(imported(ast.walk(module))) & ours - {top} <= ALLOWED[top], name


def test_the_rooms_of_the_service_import_in_one_direction() -> None:
    for number, room in enumerate(LAYERS):
        forbidden = tuple(f"image_classifier.{above}" for above in LAYERS[number + 1 :])
        for name, module in modules(f"image_classifier/{room}").items():
            upward = [one for one in imported(ast.walk(module)) if one.startswith(forbidden)]
            assert not upward, name


def test_no_two_files_import_each_other_in_a_circle() -> None:
    trees = modules("image_classifier", "importer", "preprocessing")
    named = {name[:-3].replace("/", ".").removesuffix(".__init__"): name for name in trees}
    edges = {
        module: {other for other in imported(ast.walk(trees[name])) if other in named} - {module}
        for module, name in named.items()
    }

    # A file that is left when all files without imports among the rest are taken away, over and
    # over, is part of a circle or imports one.
    while free := {module for module, others in edges.items() if not others & edges.keys()}:
        edges = {module: others for module, others in edges.items() if module not in free}

    assert not edges


def test_only_the_service_and_two_modules_know_bentoml() -> None:
    for name, module in modules(*ALLOWED).items():
        if name not in MAY_KNOW_BENTOML and not name.startswith("tools/"):
            knows = tops(imported(ast.walk(module))) & {"bentoml", "_bentoml_sdk", "_bentoml_impl"}
            assert not knows, name


def test_serving_loads_torch_only_with_the_engine_that_needs_it() -> None:
    for name, module in modules("preprocessing", "image_classifier", "service").items():
        if name != "image_classifier/inference/engines/torchscript.py":
            assert not tops(imported(executed_at_import(module))) & {"torch", "torchvision"}, name


def test_numbers_of_a_model_are_not_in_code_that_serves_models() -> None:
    for name, module in modules("image_classifier", "service").items():
        numbers = {
            node.value
            for node in ast.walk(module)
            if isinstance(node, ast.Constant) and type(node.value) in (int, float)
        }
        assert not MODEL_NUMBERS & numbers, name
