"""Runs a user's Python file and the files beside it, isolated from other modules."""

import builtins
import hashlib
import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

PACKAGE_PREFIX = "captured_"
OUR_PACKAGES = frozenset({"preprocessing", "image_classifier"})
"""In a user's file these names always mean this program's packages."""


def load_isolated(file: Path) -> ModuleType:
    """Run a Python file as a module that can import the files beside it.

    The module name depends on the sources only, so that a graph traced from them does not depend
    on their location. `sys.path` is not changed and no bytecode is written. If the file raises,
    its modules are removed and the exception propagates.
    """
    file = file.absolute()  # stays valid when the working directory changes
    package = PACKAGE_PREFIX + _digest_of_sources(file.parent)[:16]
    _forget(package)
    _IsolatedFinder.folders[package] = file.parent
    if not any(isinstance(finder, _IsolatedFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _IsolatedFinder())
    try:
        return importlib.import_module(f"{package}.{file.stem}")
    except BaseException:
        _forget(package)
        raise


def is_beside(folder: Path, name: str) -> bool:
    """Return whether `import name` in a file of `folder` means a file there.

    The standard library and this program's packages take precedence.
    """
    if name in sys.stdlib_module_names or name in OUR_PACKAGES:
        return False
    return (folder / f"{name}.py").is_file() or any((folder / name).glob("*.py"))


def _digest_of_sources(folder: Path) -> str:
    # Two levels distinguish projects; deeper files are still read afresh at each load.
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.py"), *folder.glob("*/*.py")]):
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


class _IsolatedFinder(MetaPathFinder):
    """Finds the modules of isolated folders; stays installed for imports inside functions."""

    # One registry per process, like sys.modules.
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
        # The __init__.py of the file's own folder is not run.
        if inner and (place / "__init__.py").is_file():
            loader = _IsolatedLoader(place / "__init__.py", package)
            return ModuleSpec(fullname, loader, origin=str(loader.file), is_package=True)
        if inner and place.with_suffix(".py").is_file():
            loader = _IsolatedLoader(place.with_suffix(".py"), package)
            spec = ModuleSpec(fullname, loader, origin=str(loader.file))
            spec.has_location = True
            return spec
        return ModuleSpec(fullname, None, is_package=True) if place.is_dir() else None


class _IsolatedLoader(SourceLoader):
    """Runs one file. SourceLoader writes no __pycache__ because there is no `path_stats`."""

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
        globals: Mapping[str, object] | None = None,  # noqa: A002 - parameters of __import__
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        top = name.partition(".")[0]
        if level > 0 or not is_beside(_IsolatedFinder.folders[self.package], top):
            return __import__(name, globals, locals, fromlist or (), level)
        module = __import__(f"{self.package}.{name}", globals, locals, fromlist or (), 0)
        return module if fromlist else sys.modules[f"{self.package}.{top}"]
