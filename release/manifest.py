"""What a sealed bento says of itself: its digest, its model, the digest of every file."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from image_classifier.artifact.format import Digest, FrozenModel
from release.content import MANIFEST_NAME
from release.errors import ReleaseError


class ModelReference(FrozenModel):
    """The model inside, to the byte: what `model.lock` says."""

    tag: str
    manifest_sha256: Digest
    evidence_sha256: Digest


class BentoManifest(FrozenModel):
    """manifest.json of a sealed bento.

    Attributes:
        digest: Of the content, see `release.content.content_digest`.
        version: Its first 16 digits; BentoML's version of the bento.
        source_commit: Commit the files came from; ends in "-dirty" where a packed file differs
            from it; None outside a checkout. Not part of the digest.
        files: sha256 of every file but this one and the model's.
    """

    schema_version: Literal[1] = 1
    name: str
    version: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    digest: Digest
    model: ModelReference
    source_commit: str | None
    files: dict[str, Digest]

    def to_json(self) -> bytes:
        """The canonical bytes."""
        return (json.dumps(self.model_dump(), indent=2, sort_keys=True) + "\n").encode()


def read_manifest(root: Path) -> BentoManifest:
    """The manifest of a sealed bento.

    Raises:
        ReleaseError: There is none, or it is not one.
    """
    path = root / MANIFEST_NAME
    try:
        return BentoManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ReleaseError(
            f"{path}: {error.strerror}; expected a bento of `make bento`; a plain "
            "`bentoml build` writes no manifest"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ReleaseError(f"{path}: {place}: {first['msg']}; build the bento again") from error
