"""A user's source file with the files it imports beside it: found, and loaded out of the way.

Captured code is not put under its own name: a `blocks.py` beside the network must neither
hide another `blocks` nor be hidden by one. It lives in `sys.modules` below a package named
after the digest of its sources, and `sys.path` is not touched.
"""

import ast
import builtins
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from artifact.errors import ArtifactError

PACKAGE_PREFIX = "captured_"


def captured_sources(file: Path) -> dict[str, Path]:
    """`file` and every file beside or below it that it imports, directly or not.

    Only import statements are followed, wherever they stand; `importlib.import_module` is not.

    Returns:
        Name below the folder of `file`, forward slashes, sorted → file.

    Raises:
        ArtifactError: A file is missing or is no Python; an import leads to code that is
            neither installed nor beside the file, and so could not travel with it.
    """
    found = _reached_files(file)
    for path in found.values():
        for name in sorted({parts[0] for parts in _imports(path, file.parent)}):
            if not _is_local(file.parent, name):
                _refuse_uninstalled(path, name)
    return found


def load_captured(file: Path) -> ModuleType:
    """Run `file` as a module; its imports beside it are found there and nowhere else.

    The same sources give the same module name on every machine, so that what is exported
    from them does not depend on where they lay.

    Raises:
        ArtifactError: The file is missing, is no Python, or raised while it ran.
    """
    file = file.absolute()  # still right after a change of the working directory
    package = PACKAGE_PREFIX + _digest(_reached_files(file))[:16]
    if _CapturedFinder.folders.get(package) != file.parent:
        _forget(package)  # the same sources elsewhere: `__file__` must be where they lie now
    _CapturedFinder.folders[package] = file.parent
    if not any(isinstance(finder, _CapturedFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _CapturedFinder())
    try:
        return importlib.import_module(f"{package}.{file.stem}")
    # The file is the user's own program: it can raise anything.
    except Exception as error:
        _forget(package)
        reason = str(error).partition("\n")[0].replace(f"{package}.", "")
        raise ArtifactError(
            f"{file}: raised {type(error).__name__}: {reason}; it must run by itself, with "
            "installed packages and the files beside it"
        ) from error


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


class _CapturedFinder(MetaPathFinder):
    """Finds the modules of captured packages; stays installed for imports inside functions."""

    # One registry for the whole process, as sys.modules is.
    folders: ClassVar[dict[str, Path]] = {}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the interface of a finder
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        package, _, inner = fullname.partition(".")
        folder = self.folders.get(package)
        if folder is None:
            return None
        place = folder.joinpath(*inner.split(".")) if inner else folder
        # The folder of the file itself is no package of its own: its __init__.py is not run.
        if inner and (place / "__init__.py").is_file():
            loader = _CapturedLoader(place / "__init__.py", package)
            return ModuleSpec(fullname, loader, origin=str(loader.file), is_package=True)
        if inner and place.with_suffix(".py").is_file():
            loader = _CapturedLoader(place.with_suffix(".py"), package)
            spec = ModuleSpec(fullname, loader, origin=str(loader.file))
            spec.has_location = True
            return spec
        return ModuleSpec(fullname, None, is_package=True) if place.is_dir() else None


class _CapturedLoader(SourceLoader):
    """Runs one captured file. Without `path_stats`, SourceLoader writes no __pycache__."""

    def __init__(self, file: Path, package: str) -> None:
        self.file = file
        self.package = package

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002 - the interface of a loader
        return str(self.file)

    def get_data(self, path: str | bytes) -> bytes:
        return Path(str(path)).read_bytes()

    def exec_module(self, module: ModuleType) -> None:
        # The import statement calls the `__import__` of the module's own builtins.
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
        super().exec_module(module)

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - the signature of __import__
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        top = name.partition(".")[0]
        if level > 0 or not _is_local(_CapturedFinder.folders[self.package], top):
            return __import__(name, globals, locals, fromlist or (), level)
        module = __import__(f"{self.package}.{name}", globals, locals, fromlist or (), 0)
        return module if fromlist else sys.modules[f"{self.package}.{top}"]


def _reached_files(file: Path) -> dict[str, Path]:
    folder, pending, found = file.parent, [file], set[Path]()
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            for parts in _imports(path, folder):
                pending += _local_files(folder, parts)
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}


def _imports(path: Path, folder: Path) -> Iterator[tuple[str, ...]]:
    """Dotted names that the file may import, as seen from `folder`."""
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base_of_relative(node, path, folder)
            module = (*base, *(node.module.split(".") if node.module else ()))
            if module:
                yield module
            yield from ((*module, alias.name) for alias in node.names if node.level or module)


def _base_of_relative(node: ast.ImportFrom, path: Path, folder: Path) -> tuple[str, ...]:
    if node.level == 0:
        return ()
    package = path.parent.relative_to(folder).parts
    if node.level - 1 > len(package):
        raise ArtifactError(
            f"{path}, line {node.lineno}: imports from above its folder, which cannot travel with "
            "the weights; put what it needs beside it"
        )
    return package[: len(package) - (node.level - 1)]


def _local_files(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    if not _is_local(folder, parts[0]):
        return
    for length in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:length])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                yield file
                break


def _is_local(folder: Path, name: str) -> bool:
    """Whether `import name` means a file in `folder`; the standard library always wins."""
    if name in sys.stdlib_module_names:
        return False
    return (folder / f"{name}.py").is_file() or any((folder / name).glob("*.py"))


def _refuse_uninstalled(path: Path, name: str) -> None:
    if name in sys.stdlib_module_names or name == "__main__":
        return
    spec = importlib.util.find_spec(name)
    if spec is None:  # may be optional; if it is not, running the file says so
        return
    places = list(spec.submodule_search_locations or ([spec.origin] if spec.origin else []))
    if not all(any(Path(place).parent.glob("*.dist-info")) for place in places):
        raise ArtifactError(
            f"{path}: imports {name!r} from {places[0]}, which is neither an installed package nor "
            "beside the file and would not travel with the weights; put it beside or install it"
        )


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; expected a Python source file") from error
    except (SyntaxError, ValueError) as error:  # ValueError: null bytes
        raise ArtifactError(f"{path}: not valid Python: {error}") from error


def _digest(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in files.items():
        digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
