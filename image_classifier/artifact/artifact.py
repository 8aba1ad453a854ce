"""An artifact, verified when it is opened."""

import json
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from stat import S_ISREG

import numpy as np
import numpy.typing as npt

from image_classifier.artifact.evidence import Evidence
from image_classifier.artifact.format import (
    EVIDENCE_NAME,
    LABELS_NAME,
    MANIFEST_NAME,
    RECORD_NAME,
    REFERENCE_LOGITS_NAME,
    UNPINNED,
    WEIGHTS_NAME,
    ArtifactError,
    describe_differences,
    file_names,
    read_model,
    sha256_tree,
)
from image_classifier.artifact.manifest import Manifest
from image_classifier.artifact.record import ImportRecord, SloCertificate, read_record, read_slo
from preprocessing import Preprocessing, SpecPreprocessing, load_preprocessing

LARGE = ("engines/", WEIGHTS_NAME)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An artifact whose every file matched its digest when it was opened.

    Attributes:
        digest: sha256 of the manifest: the identity.
        evidence_digest: sha256 of the evidence.
        record: Measurements of the import, and how to run which engine.
        slo: Measured rate of the whole service; None if not measured.
    """

    root: Path
    digest: str
    manifest: Manifest
    evidence_digest: str
    evidence: Evidence
    record: ImportRecord
    slo: SloCertificate | None = None

    def path_of(self, name: str) -> Path:
        """Return the path of a file of the artifact."""
        return self.root / name

    def pinned_files(self) -> dict[str, str]:
        """Return the sha256 of every file that model.lock and a signature cover, by name."""
        return {
            **_digests(self.manifest, self.evidence),
            MANIFEST_NAME: self.digest,
            EVIDENCE_NAME: self.evidence_digest,
        }

    def labels(self) -> tuple[str, ...]:
        """Return the labels in the order of the logits.

        A single sigmoid output may have two labels: for "no" and for "yes".
        """
        path, classes = self.path_of(LABELS_NAME), self.manifest.num_classes
        labels = tuple(json.loads(path.read_bytes()))
        binary = classes == 1 and self.manifest.outputs.activation == "sigmoid"
        if len(labels) != classes and not (binary and len(labels) == 2):
            raise ArtifactError(
                f"{path}: {len(labels)} labels, the network has {classes} classes; "
                "import the model again"
            )
        return labels

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing: built from the spec, or the user's class, loaded once."""
        entry = self.manifest.preprocessing
        if entry.spec is not None:
            return SpecPreprocessing(entry.spec)
        return load_preprocessing(self.path_of(str(entry.file)), str(entry.class_name))

    def reference(self) -> tuple[npt.NDArray[np.float32], tuple[int | None, ...]]:
        """Return the reference logits (n, classes), and the true class of each golden sample."""
        path = self.path_of(REFERENCE_LOGITS_NAME)
        logits = np.load(BytesIO(path.read_bytes()), allow_pickle=False)
        expected = (len(self.manifest.golden), self.manifest.num_classes)
        if logits.shape != expected or logits.dtype != np.float32:
            raise ArtifactError(
                f"{path}: {logits.dtype} {logits.shape}, expected float32 {expected}; "
                "import the model again"
            )
        return logits, tuple(entry.class_id for entry in self.manifest.golden)

    def golden_files(self) -> tuple[bytes, ...]:
        """Return the bytes of the golden images, in the manifest's order."""
        return tuple(self.path_of(entry.file).read_bytes() for entry in self.manifest.golden)


def open_artifact(
    root: Path,
    manifest_sha256: str | None = None,
    evidence_sha256: str | None = None,
    *,
    graphs: bool = True,
) -> Artifact:
    """Verify every file of an artifact and read its descriptions.

    Args:
        root: Directory of the artifact.
        manifest_sha256, evidence_sha256: Digests of manifest and evidence in model.lock; None
            accepts any (only for listing and at import).
        graphs: False skips the weights and the graphs, which are large, in processes that do
            not open them.

    Raises:
        ArtifactError: A file is missing, extra or changed, or manifest and evidence contradict
            each other.
    """
    manifest, digest = read_model(Manifest, root / MANIFEST_NAME, sha256=manifest_sha256)
    evidence, evidence_digest = read_model(Evidence, root / EVIDENCE_NAME, sha256=evidence_sha256)
    _check_references(root, digest, manifest, evidence)
    _verify_files(root, _digests(manifest, evidence), graphs=graphs)
    record = read_record(root)
    # The record has no digest, so it may only choose among certified engines.
    if record.plan.engine not in {entry.name for entry in evidence.engines}:
        raise ArtifactError(
            f"{root / RECORD_NAME}: the plan's engine {record.plan.engine!r} is not certified; "
            "import the model again"
        )
    return Artifact(
        root=root,
        digest=digest,
        manifest=manifest,
        evidence_digest=evidence_digest,
        evidence=evidence,
        record=record,
        slo=read_slo(root),
    )


def _digests(manifest: Manifest, evidence: Evidence) -> dict[str, str]:
    """Return the digest of every file named in manifest or evidence."""
    reference = {REFERENCE_LOGITS_NAME: evidence.reference_logits_sha256}
    return {**manifest.files, **evidence.packages, **reference}


def _check_references(root: Path, digest: str, manifest: Manifest, evidence: Evidence) -> None:
    if evidence.identity_sha256 != digest:
        raise ArtifactError(
            f"{root / MANIFEST_NAME}: sha256 is {digest}, {EVIDENCE_NAME} is the evidence of "
            f"{evidence.identity_sha256}; import the model again"
        )
    graphs = {graph.file for graph in manifest.graphs}
    for entry in evidence.engines:
        if entry.file not in graphs:
            raise ArtifactError(
                f"{root / EVIDENCE_NAME}: engine {entry.name} runs {entry.file}, which is not a "
                "graph of the manifest; import the model again"
            )


def _verify_files(root: Path, files: dict[str, str], *, graphs: bool) -> None:
    present = file_names(root) - UNPINNED - {MANIFEST_NAME, EVIDENCE_NAME}
    # A link may lead outside the artifact, and reading a pipe would never end.
    for name in sorted(present):
        if not S_ISREG((root / name).lstat().st_mode):
            raise ArtifactError(
                f"{root / name}: is a symbolic link, a pipe or a device, expected a file; "
                "import the model again"
            )
    # Names that lead outside the artifact are not among those present: they are missing.
    skipped = set()
    if not graphs:
        skipped = {name for name in present & files.keys() if name.startswith(LARGE)}
    expected = {name: files[name] for name in files.keys() - skipped}
    if differences := describe_differences(expected, sha256_tree(root, present - skipped)):
        raise ArtifactError(f"{root}: {differences}; import the model again")
