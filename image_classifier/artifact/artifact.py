"""A verified artifact, ready to be read."""

import json
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from stat import S_ISREG

import numpy as np
import numpy.typing as npt

import preprocessing as built_in
from image_classifier.artifact.format import (
    BUILT_IN_PREPROCESSING,
    GOLDEN_LOGITS_NAME,
    LABELS_NAME,
    MANIFEST_NAME,
    UNDIGESTED,
    WEIGHTS_NAME,
    ArtifactError,
    describe_differences,
    file_names,
    sha256_bytes,
    sha256_tree,
)
from image_classifier.artifact.manifest import Manifest, parse_manifest
from image_classifier.artifact.record import ImportRecord, SloCertificate, read_record, read_slo
from preprocessing import Preprocessing, SpecPreprocessing, load_preprocessing

LARGE = ("engines/", WEIGHTS_NAME)


@dataclass(frozen=True, kw_only=True)
class GoldenSample:
    """One original file and what the reference answers to it.

    Attributes:
        data: The file's bytes.
        logits: float32, shape (classes,).
        class_id: Index of the true class, or None.
        input_sha256: Digest of its input, (H, W, C) in C order.
    """

    name: str
    data: bytes
    logits: npt.NDArray[np.float32]
    class_id: int | None
    input_sha256: str


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An artifact whose every file matched its digest when it was opened.

    Attributes:
        digest: sha256 of the manifest, which holds the digests of all other files.
        record: What was measured at import; None where the artifact came without it.
        slo: What some machine holds with it; None where that was not measured.
    """

    root: Path
    digest: str
    manifest: Manifest
    record: ImportRecord | None
    slo: SloCertificate | None = None

    def path_of(self, name: str) -> Path:
        """Path of a file the manifest names."""
        return self.root / name

    def labels(self) -> tuple[str, ...]:
        """Label of each class, in the order of the logits."""
        labels = tuple(json.loads(self.path_of(LABELS_NAME).read_bytes()))
        if len(labels) != self.manifest.num_classes:
            raise ArtifactError(
                f"{self.path_of(LABELS_NAME)}: {len(labels)} labels, the network has "
                f"{self.manifest.num_classes} classes; import the model again"
            )
        return labels

    def preprocessing(self) -> Preprocessing:
        """The preprocessing that was proven at import: built from the spec, or the user's class."""
        entry = self.manifest.preprocessing
        if entry.spec is not None:
            return SpecPreprocessing(entry.spec)
        if entry.file is None or entry.class_name is None:  # ruled out by the manifest's checks
            raise ArtifactError(f"{self.root}: no preprocessing; import the model again")
        return load_own_preprocessing(self.path_of(entry.file), entry.class_name)

    def golden_samples(self) -> tuple[GoldenSample, ...]:
        """The golden samples, in the manifest's order."""
        logits = np.load(BytesIO(self.path_of(GOLDEN_LOGITS_NAME).read_bytes()), allow_pickle=False)
        expected = (len(self.manifest.golden), self.manifest.num_classes)
        if logits.shape != expected or logits.dtype != np.float32:
            raise ArtifactError(
                f"{self.path_of(GOLDEN_LOGITS_NAME)}: {logits.dtype} {logits.shape}, expected "
                f"float32 {expected}; import the model again"
            )
        return tuple(
            GoldenSample(
                name=entry.name,
                data=self.path_of(entry.file).read_bytes(),
                logits=row,
                class_id=entry.class_id,
                input_sha256=entry.input_sha256,
            )
            for entry, row in zip(self.manifest.golden, logits, strict=True)
        )


def load_own_preprocessing(path: Path, class_name: str) -> Preprocessing:
    """A user's class, loaded without leaving bytecode beside its file.

    A __pycache__ would be an extra file of the artifact, with the time of the import in it.
    """
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return load_preprocessing(path, class_name)
    finally:
        sys.dont_write_bytecode = before


def open_artifact(
    root: Path, expected_digest: str | None = None, *, graphs: bool = True
) -> Artifact:
    """Verify every file of an artifact and read its description.

    Args:
        root: Its directory.
        expected_digest: sha256 the manifest must have, from model.lock; None trusts the manifest
            (only for listing and at import).
        graphs: False leaves out the weights and the graphs, which are large: for a process
            that does not open them.

    Raises:
        ArtifactError: A file is missing, extra or changed, or this program's own preprocessing
            is not the one the model was proven with.
    """
    path = root / MANIFEST_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: not found; import the model again") from error
    digest = sha256_bytes(data)
    if expected_digest is not None and digest != expected_digest:
        raise ArtifactError(
            f"{path}: sha256 is {digest}, expected {expected_digest}; import the model again"
        )
    manifest = parse_manifest(data, str(path))
    _verify_files(root, manifest, graphs=graphs)
    verify_built_in_preprocessing(root, manifest)
    return Artifact(
        root=root,
        digest=digest,
        manifest=manifest,
        record=read_record(root),
        slo=read_slo(root),
    )


def _verify_files(root: Path, manifest: Manifest, *, graphs: bool) -> None:
    present = file_names(root) - UNDIGESTED
    # A link may lead outside, and reading a pipe would never end.
    if odd := sorted(name for name in present if not S_ISREG((root / name).lstat().st_mode)):
        raise ArtifactError(
            f"{root / odd[0]}: is a symbolic link, a pipe or a device, expected a file; "
            "import the model again"
        )
    large = {name for name in manifest.files if name.startswith(LARGE)} if not graphs else set()
    expected = {name: digest for name, digest in manifest.files.items() if name not in large}
    differences = describe_differences(expected, sha256_tree(root, present - large))
    if differences:
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise ArtifactError(f"{root}: {differences[0]}{more}; import the model again")


def built_in_sources() -> dict[str, bytes]:
    """Source of the running preprocessing package, by file name."""
    root = Path(built_in.__file__).parent
    return {path.name: path.read_bytes() for path in sorted(root.glob("*.py"))}


def verify_built_in_preprocessing(root: Path, manifest: Manifest) -> None:
    """Check that the running preprocessing package is the one the model was proven with.

    Raises:
        ArtifactError: A source file differs.
    """
    expected = {
        name.removeprefix(f"{BUILT_IN_PREPROCESSING}/"): digest
        for name, digest in manifest.files.items()
        if name.startswith(f"{BUILT_IN_PREPROCESSING}/")
    }
    running = {name: sha256_bytes(source) for name, source in built_in_sources().items()}
    if differences := describe_differences(expected, running):
        raise ArtifactError(
            f"{root}: the preprocessing package of this program is not the one the model was "
            f"proven with: {differences[0]}; import the model again"
        )
