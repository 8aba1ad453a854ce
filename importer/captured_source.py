"""A user's Python file together with the files beside it that it needs."""

import ast
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from importer.errors import ImportRefused
from preprocessing.isolated_source import OUR_PACKAGES, is_beside

SUFFIXES_OF_WEIGHTS = frozenset({".safetensors", ".pt", ".pth", ".ckpt", ".onnx"})
"""Training scripts name such files; the weights to import are given with --weights."""
TYPE_CHECKING = re.compile(r"(\w+\.)?TYPE_CHECKING")
"""The condition whose statements only type checkers read."""


@dataclass(frozen=True, kw_only=True)
class CapturedSource:
    """A user's Python file and what it needs.

    Attributes:
        files: Name relative to the folder of the file, with forward slashes, sorted → path: the
            file, modules beside it that it imports, and data files beside it that these name.
        imports: Top-level names of all other imported modules, such as "PIL", sorted, without
            those of this program.
    """

    files: dict[str, Path]
    imports: tuple[str, ...]

    def copy_to(self, folder: Path) -> None:
        """Copy the files into `folder`, which is created if it is missing."""
        for name, path in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)


def capture_source(file: Path) -> CapturedSource:
    """Find what a Python file needs to run elsewhere, without running it.

    Follows all import statements, but not `importlib.import_module`, and none inside
    `if TYPE_CHECKING:`, which never run. A string that names a file beside the source, such as
    "classes.json", includes that file.

    Raises:
        ImportRefused: A file is not valid Python, or needs what cannot travel with it: code that
            is neither installed nor beside it, or a file of this machine.
    """
    folder, pending = file.parent, [file]
    files: dict[str, Path] = {}
    imports: set[str] = set()
    while pending:
        path = pending.pop()
        if (relative := path.relative_to(folder).as_posix()) in files:
            continue
        files[relative] = path
        try:
            tree = ast.parse(path.read_bytes(), filename=str(path))
        except (SyntaxError, ValueError) as error:  # ValueError: null bytes
            raise ImportRefused(f"{path}: not valid Python: {error}") from error
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and TYPE_CHECKING.fullmatch(ast.unparse(node.test)):
                node.body = []
        for data in _data_files(tree, path, folder):
            files[data.relative_to(folder).as_posix()] = data
        for parts in _imports(tree, path, folder):
            name = parts[0]
            _refuse_clash(path, name, file)
            if is_beside(folder, name):
                pending += _files_of_import(folder, parts)
            elif name not in OUR_PACKAGES:
                _refuse_uninstalled(path, name)
                imports.add(name)
    return CapturedSource(files=dict(sorted(files.items())), imports=tuple(sorted(imports)))


def _imports(tree: ast.Module, path: Path, folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield the dotted names that a file may import, relative to `folder`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.parent.relative_to(folder).parts
            if node.level > len(package) + 1:
                raise ImportRefused(
                    f"{path}, line {node.lineno}: imports from above its folder, which does not "
                    "travel with it; give a file in that folder instead, which imports this one"
                )
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            if module:
                yield module
            yield from ((*module, alias.name) for alias in node.names)


def _files_of_import(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    for length in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:length])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                yield file
                break


def _refuse_clash(path: Path, name: str, file: Path) -> None:
    beside = (file.parent / f"{name}.py", file.parent / name / "__init__.py")
    if name in OUR_PACKAGES and any(other.is_file() and other != file for other in beside):
        raise ImportRefused(
            f"{path}: imports {name!r}, which is a file beside it and also a package of this "
            "program; rename the file beside it"
        )


def _refuse_uninstalled(path: Path, name: str) -> None:
    if name in sys.stdlib_module_names or name == "__main__":
        return
    spec = importlib.util.find_spec(name)
    if spec is None:  # an optional import; running the file fails if it is not
        return
    places = list(spec.submodule_search_locations or ([spec.origin] if spec.origin else []))
    if not all(any(Path(place).parent.glob("*.dist-info")) for place in places):
        raise ImportRefused(
            f"{path}: imports {name!r} from {places[0]}, which is neither an installed package nor "
            "beside the file, so it would not travel with it; copy it beside the file or install it"
        )


def _path_in(node: ast.expr) -> str:
    """Return the path that an expression names: "a/b", … / "a" / "b" or join(…, "a", "b")."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    parts: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        parts.insert(0, node.right)
        node = node.left
    if isinstance(node, ast.Call):
        parts = parts or node.args
    texts = [part.value for part in parts if isinstance(part, ast.Constant)]
    return "/".join(text for text in texts if isinstance(text, str))


def _data_files(tree: ast.Module, path: Path, folder: Path) -> Iterator[Path]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.expr):
            continue
        text = _path_in(node)
        named = path.parent / text
        if not text or named.suffix == ".py" or named.suffix in SUFFIXES_OF_WEIGHTS:
            continue
        # Not Path.is_file, which raises for names that are too long and in closed folders.
        if not os.path.isfile(named):  # noqa: PTH113
            continue
        if Path(text).is_absolute():
            raise ImportRefused(
                f"{path}, line {node.lineno}: names {text}, a file of this machine; copy it "
                "beside the file and open it as Path(__file__).parent / NAME"
            )
        if named.resolve().is_relative_to(folder.resolve()):
            yield named
