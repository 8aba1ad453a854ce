"""The network: built from torchvision or from captured source, with its weights."""

import ast
import builtins
import hashlib
import importlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from image_classifier.artifact.format import WEIGHTS_NAME, ArtifactError
from image_classifier.artifact.manifest import TORCHVISION, Architecture
from importer.errors import ImportRefused
from importer.graphs import OnnxNetwork, load_torchscript
from importer.options import ImportOptions
from importer.torchvision_models import (
    TorchvisionWeights,
    check_torchvision_name,
    read_torchvision_weights,
    torchvision_meta,
    torchvision_weights_of,
)
from importer.weights import (
    check_published_digest,
    is_onnx,
    is_torchscript,
    load_strictly,
    read_state_dict,
)

if TYPE_CHECKING:
    import torch


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


NETWORKS_WITH_SLOW_INIT = frozenset({"googlenet", "inception_v3"})
"""Their builders warn unless `init_weights` is given, and take seconds to draw random weights."""


def source_folder(text: str) -> Path | None:
    """The folder of the file that `Architecture.parse(text, …)` names; None for torchvision."""
    origin, _, _ = text.rpartition(":")
    return None if origin == TORCHVISION else Path(origin).parent


def sources(architecture: Architecture, source_dir: Path | None) -> dict[str, Path]:
    """The files that must travel with the weights: the network's own and what it imports beside it.

    Returns:
        Name below the source folder (forward slashes, sorted) → file. Empty for torchvision.

    Raises:
        ArtifactError: The file is missing, is no Python, or imports from outside its folder.
    """
    if architecture.file is None:
        return {}
    return captured_sources(_given(source_dir, architecture) / architecture.file)


def build_network(architecture: Architecture, source_dir: Path | None) -> "torch.nn.Module":
    """The network in evaluation mode, on the CPU, with random weights.

    Args:
        architecture: What to build.
        source_dir: Folder of the source file; not used for torchvision.

    Raises:
        ArtifactError: The name is unknown, or the builder fails.
    """
    if architecture.torchvision is not None:
        network = _torchvision_network(architecture)
    else:
        network = _captured_network(architecture, _given(source_dir, architecture))
    return network.eval().requires_grad_(False)


def _torchvision_network(architecture: Architecture) -> "torch.nn.Module":
    import torchvision.models

    name = str(architecture.torchvision)
    check_torchvision_name(name)
    kwargs: dict[str, Any] = dict(architecture.kwargs)
    if name in NETWORKS_WITH_SLOW_INIT:
        kwargs.setdefault("init_weights", False)
    return _built(architecture, lambda: torchvision.models.get_model(name, weights=None, **kwargs))


def _captured_network(architecture: Architecture, source_dir: Path) -> "torch.nn.Module":
    module = load_captured(source_dir / str(architecture.file))
    builder = getattr(module, str(architecture.builder), None)
    if not callable(builder):
        found = sorted(
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
        )
        raise ArtifactError(
            f"network {architecture}: the file defines no function {architecture.builder!r}; "
            f"it defines {', '.join(found) or 'none'}"
        )
    return _built(architecture, lambda: builder(**architecture.kwargs))


def _built(architecture: Architecture, build: Any) -> "torch.nn.Module":
    import torch

    try:
        network = build()
    # The builder is code of the user's or takes arguments of the user's: it can raise anything.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ArtifactError(
            f"network {architecture}: the builder raised {type(error).__name__}: {reason}; "
            "check the arguments and that the network builds in a plain Python session"
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise ArtifactError(
            f"network {architecture}: returned {type(network).__name__}, expected a torch.nn.Module"
        )
    return network


def _given(source_dir: Path | None, architecture: Architecture) -> Path:
    if source_dir is None:
        raise ArtifactError(f"network {architecture}: the folder of its source file is not given")
    return source_dir


ARCHITECTURE_FOLDER = "architecture"
ORIGINAL_FOLDER = "original"
"""Where a finished graph is kept as it was given, in place of architecture and weights."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """What was trained.

    Attributes:
        network: With its weights, in evaluation mode, on the CPU.
        architecture: How to build it; None where the file is a finished graph.
        published: What torchvision says of the weights, where it published them.
        notes: Sentences for the operator.
    """

    network: nn.Module
    architecture: Architecture | None
    published: TorchvisionWeights | None
    notes: tuple[str, ...] = ()


def read_model(options: ImportOptions, draft: Path) -> ModelSource:
    """Build the network from its captured source, load the weights, save them in the draft.

    Raises:
        OperatorError: What is wrong with either.
    """
    path = Path(options.weights)
    is_graph = path.is_file() and (is_torchscript(path) or is_onnx(path))
    if options.network is None:
        if not is_graph:
            raise ImportRefused(
                f"--network is not given and {path} is no TorchScript and no ONNX file; expected "
                "--network torchvision:NAME or PATH.py:FUNCTION"
            )
        return _read_graph(path, draft)
    if is_graph:
        raise ImportRefused(
            f"{path}: a finished graph, which holds its network; leave --network out"
        )
    return _read_network(options, options.network, draft)


def _read_network(options: ImportOptions, network_text: str, draft: Path) -> ModelSource:
    architecture = Architecture.parse(network_text, options.network_kwargs)
    published = _published(architecture, options.weights)
    if published is not None:
        kwargs = {**published.builder_kwargs, **architecture.kwargs}
        architecture = architecture.model_copy(update={"kwargs": kwargs})
    folder = draft / ARCHITECTURE_FOLDER
    for name, path in sources(architecture, source_folder(network_text)).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    network = build_network(architecture, folder)
    if published is not None and not Path(options.weights).is_file():
        checkpoint = read_torchvision_weights(published, progress=True)
    else:
        checkpoint = read_state_dict(
            Path(options.weights), key=options.weights_key, prefix=options.weights_prefix
        )
    load_strictly(network, checkpoint)
    _save_weights(network, draft)
    notes: tuple[str, ...] = ()
    if checkpoint.alternatives:
        notes = (
            f"weights are those at {checkpoint.found_at!r}; there are also "
            f"{', '.join(checkpoint.alternatives)} (--weights-key)",
        )
    return ModelSource(network=network, architecture=architecture, published=published, notes=notes)


def _published(architecture: Architecture, weights: str) -> TorchvisionWeights | None:
    if architecture.torchvision is None:
        return None
    if Path(weights).is_file():
        return torchvision_weights_of(architecture.torchvision, Path(weights))
    if weights.isidentifier():
        return torchvision_meta(architecture.torchvision, weights)
    return None


def _save_weights(network: nn.Module, draft: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    try:
        save_model(network, str(draft / WEIGHTS_NAME))
    except SafetensorError as error:  # a full disk is one too, not an OSError
        raise ImportRefused(f"{draft / WEIGHTS_NAME}: {error}; make room in the store") from error
    (draft / WEIGHTS_NAME).chmod(0o644)  # safetensors writes 0600; a container's user must read it


def _read_graph(path: Path, draft: Path) -> ModelSource:
    check_published_digest(path)
    folder = draft / ORIGINAL_FOLDER
    folder.mkdir()
    if is_torchscript(path):
        kept = folder / "network.torchscript.pt"
        shutil.copyfile(path, kept)
        script = load_torchscript(kept)
        for parameter in script.parameters():  # a ScriptModule has no requires_grad_
            parameter.requires_grad = False
        return ModelSource(network=script, architecture=None, published=None)
    network = OnnxNetwork(path)
    for name, file in network.signature.files.items():
        # The graph refers to files beside it by their names; its own is free to choose.
        shutil.copyfile(file, folder / ("network.onnx" if file == path else name))
    notes = []
    if network.cut_softmax:
        notes.append("the graph ends in Softmax; its input, the logits, is what is served")
    if network.batch_size is not None:
        notes.append(f"the graph has a fixed batch size of {network.batch_size}; it is made free")
    return ModelSource(network=network, architecture=None, published=None, notes=tuple(notes))
