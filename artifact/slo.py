"""What one machine holds with an artifact: the highest rate within the latency budget.

Not part of the artifact's digest, like the import record: the same artifact holds another rate on
another machine. `make certify` writes it, `GET /model` shows it; nothing that serves depends on it.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from artifact.errors import ArtifactError, first_problem
from artifact.manifest import FrozenModel
from artifact.record import Machine, Plan

SLO_NAME = "slo.json"


class SloCertificate(FrozenModel):
    """One measurement of the whole service, over HTTP, with open-loop Poisson arrivals.

    Attributes:
        measured_at: ISO 8601, UTC.
        commit: Of the program, with "-dirty" where files differed from it; None outside git.
        machine: It was measured on; server and load generator shared its cores.
        images: Where the images came from: "golden", or the name of the directory given.
        image_count: Number of different images.
        topology: "embedded" or "runner".
        settings: CLASSIFIER_* that were set, without the lock.
        plan: How the server ran the network.
        budget_ms: Latency the p99 may take.
        highest_rate_per_s: Highest rate with p99 within the budget, no failure and no wrong
            answer; 0 where no rate passed.
        first_failed_rate_per_s: Lowest rate that did not; None where none failed.
        p50_ms, p99_ms: At the highest rate, in milliseconds; None where no rate passed.
        saturated_per_s: Correct answers a second with as many requests as it can take.
        ready_s: From process start to the first correct answer.
        rule: How the highest rate was searched, in words.
    """

    schema_version: Literal[1] = 1
    measured_at: str
    commit: str | None
    machine: Machine
    images: str
    image_count: Annotated[int, Field(ge=1)]
    topology: Literal["embedded", "runner"]
    settings: dict[str, str]
    plan: Plan
    budget_ms: Annotated[float, Field(gt=0)]
    highest_rate_per_s: Annotated[float, Field(ge=0)]
    first_failed_rate_per_s: float | None
    p50_ms: float | None
    p99_ms: float | None
    saturated_per_s: Annotated[float, Field(ge=0)]
    ready_s: Annotated[float, Field(gt=0)]
    rule: str

    def to_json(self) -> bytes:
        """Readable bytes."""
        return (json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


def read_slo(root: Path) -> SloCertificate | None:
    """The certificate beside a manifest, or None where there is none.

    Raises:
        ArtifactError: The file is not a certificate.
    """
    path = root / SLO_NAME
    if not path.is_file():
        return None
    try:
        return SloCertificate.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = first_problem(error)
        raise ArtifactError(
            f"{path}: {problem}; delete it, or measure again with `make certify`"
        ) from error


def write_slo(root: Path, certificate: SloCertificate) -> Path:
    """Replace the certificate in one step and return its path."""
    path = root / SLO_NAME
    # Outside the artifact, whose files are all accounted for: a start in between must not fail.
    draft = root.with_name(f".{root.name}.{SLO_NAME}")
    draft.write_bytes(certificate.to_json())
    draft.replace(path)
    return path
