"""The artifact as serving opens it: verified, and signed where the operator's key asks for it."""

from pathlib import Path

from artifact.opened import Artifact, open_artifact


def open_for_serving(
    root: Path, expected_digest: str, *, public_key: str | None, graphs: bool
) -> Artifact:
    """See `open_artifact`; with a key, the artifact must carry a signature of it.

    Args:
        public_key: Path of a PEM file, or None.

    Raises:
        ArtifactError: The artifact is damaged, or not signed by the key.
    """
    artifact = open_artifact(root, expected_digest, graphs=graphs)
    if public_key is not None:
        # Its library takes longer to import than all else here, and few starts need it.
        from artifact.signature import verify_signature

        verify_signature(artifact, Path(public_key))
    return artifact
