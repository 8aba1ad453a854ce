"""A verified artifact, ready to be read."""

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
    sha256_bytes,
    sha256_tree,
)
from image_classifier.artifact.manifest import Manifest, parse_manifest
from image_classifier.artifact.record import ImportRecord, SloCertificate, read_record, read_slo
from preprocessing import Preprocessing, SpecPreprocessing, load_preprocessing

LARGE = ("engines/", WEIGHTS_NAME)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An artifact whose every file matched its digest when it was opened.

    Attributes:
        digest: sha256 of the manifest: the identity.
        evidence_digest: sha256 of the evidence.
        record: What was measured at import; None where the artifact came without it.
        slo: The rate some machine sustains with it; None where that was not measured.
    """

    root: Path
    digest: str
    manifest: Manifest
    evidence_digest: str
    evidence: Evidence
    record: ImportRecord | None
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

        One sigmoid output may have two: of "no" and of "yes".
        """
        labels = tuple(json.loads(self.path_of(LABELS_NAME).read_bytes()))
        classes = self.manifest.num_classes
        allowed = {classes}
        if classes == 1 and self.manifest.outputs.activation == "sigmoid":
            allowed.add(2)
        if len(labels) not in allowed:
            raise ArtifactError(
                f"{self.path_of(LABELS_NAME)}: {len(labels)} labels, the network has "
                f"{classes} classes; import the model again"
            )
        return labels

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing: built from the spec, or the user's class, loaded once."""
        entry = self.manifest.preprocessing
        if entry.spec is not None:
            return SpecPreprocessing(entry.spec)
        if entry.file is None or entry.class_name is None:  # ruled out by the manifest's checks
            raise ArtifactError(f"{self.root}: no preprocessing; import the model again")
        return load_preprocessing(self.path_of(entry.file), entry.class_name)

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
        root: Its directory.
        manifest_sha256, evidence_sha256: Digests that manifest and evidence must have, from
            model.lock; None takes any (only for listing and at import).
        graphs: False leaves out the weights and the graphs, which are large: for a process
            that does not open them.

    Raises:
        ArtifactError: A file is missing, extra or changed, or manifest and evidence contradict
            each other.
    """
    path = root / MANIFEST_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        found = "not found" if isinstance(error, FileNotFoundError) else error.strerror
        raise ArtifactError(f"{path}: {found}; import the model again") from error
    digest = sha256_bytes(data)
    if manifest_sha256 not in (None, digest):
        raise ArtifactError(
            f"{path}: sha256 is {digest}, expected {manifest_sha256}; import the model again"
        )
    manifest = parse_manifest(data, str(path))
    evidence, evidence_data = read_model(Evidence, root / EVIDENCE_NAME)
    evidence_digest = sha256_bytes(evidence_data)
    if evidence_sha256 not in (None, evidence_digest):
        raise ArtifactError(
            f"{root / EVIDENCE_NAME}: sha256 is {evidence_digest}, expected {evidence_sha256}; "
            "a later import of the same model replaced it, or it was changed: import the model "
            "again, which writes the lock"
        )
    record = read_record(root)
    _check_references(root, digest, manifest, evidence, record)
    _verify_files(root, _digests(manifest, evidence), graphs=graphs)
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
    """Digest of every file that manifest and evidence name."""
    return {**manifest.files, REFERENCE_LOGITS_NAME: evidence.reference_logits_sha256}


def _check_references(
    root: Path, digest: str, manifest: Manifest, evidence: Evidence, record: ImportRecord | None
) -> None:
    if evidence.identity_sha256 != digest:
        raise ArtifactError(
            f"{root / MANIFEST_NAME}: sha256 is {digest}, {EVIDENCE_NAME} is the evidence of "
            f"{evidence.identity_sha256}; import the model again"
        )
    graphs = {graph.file for graph in manifest.graphs}
    for entry in evidence.engines:
        if entry.file not in graphs:
            raise ArtifactError(
                f"{root / EVIDENCE_NAME}: engine {entry.name} runs {entry.file}, which is no graph "
                "of the manifest; import the model again"
            )
    # The record has no digest: it may choose among certified engines only.
    if record is not None and record.plan.engine not in {entry.name for entry in evidence.engines}:
        raise ArtifactError(
            f"{root / RECORD_NAME}: plans with the engine {record.plan.engine!r}, which is not "
            "certified; import the model again"
        )


def _verify_files(root: Path, files: dict[str, str], *, graphs: bool) -> None:
    present = file_names(root) - UNPINNED - {MANIFEST_NAME, EVIDENCE_NAME}
    # A link may lead outside, and reading a pipe would never end.
    not_files = sorted(name for name in present if not S_ISREG((root / name).lstat().st_mode))
    if not_files:
        raise ArtifactError(
            f"{root / not_files[0]}: is a symbolic link, a pipe or a device, expected a file; "
            "import the model again"
        )
    large = {name for name in files if name.startswith(LARGE)} if not graphs else set()
    expected = {name: digest for name, digest in files.items() if name not in large}
    if differences := describe_differences(expected, sha256_tree(root, present - large)):
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise ArtifactError(f"{root}: {differences[0]}{more}; import the model again")
