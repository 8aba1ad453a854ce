"""Before readiness: the golden samples must come out as they were certified, on this machine."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from artifact.digests import sha256_bytes
from artifact.errors import ArtifactError
from artifact.manifest import EngineEntry
from artifact.opened import Artifact, GoldenSample
from inference.certify import Gates, certify
from inference.executor import Executor
from preprocessing import DecodeLimits, Preprocessing, to_input


class SelfCheckFailed(ArtifactError):
    """This machine does not reproduce what was certified; the service must not start."""


def golden_inputs(
    samples: Iterable[GoldenSample], preprocessing: Preprocessing
) -> npt.NDArray[np.generic]:
    """Inputs of the golden samples, (n, H, W, C), proven to be those of the import.

    Raises:
        SelfCheckFailed: A sample gives other pixels than at import.
    """
    inputs = []
    for sample in samples:
        array = to_input(sample.data, preprocessing, DecodeLimits())
        found = sha256_bytes(array.tobytes())
        if found != sample.input_sha256:
            raise SelfCheckFailed(
                f"golden sample {sample.name}: preprocessing gives other pixels than at import "
                f"(sha256 is {found}, expected {sample.input_sha256}); install the versions of "
                "the requirements lock, or import the model again on this machine"
            )
        inputs.append(array)
    return np.stack(inputs)


def check_engine(
    artifact: Artifact,
    entry: EngineEntry,
    executor: Executor,
    inputs: npt.NDArray[np.generic],
) -> None:
    """Run the golden inputs at every compiled batch size and hold them to the certificate.

    Raises:
        SelfCheckFailed: An answer is not within the certificate's gates.
    """
    samples = artifact.golden_samples()
    reference = np.stack([sample.logits for sample in samples])
    class_ids = tuple(sample.class_id for sample in samples)
    gates = gates_of(entry)
    for how, logits in _ways(executor, inputs):
        _, failure = certify(logits, reference, class_ids, entry.precision, gates)
        if failure:
            raise SelfCheckFailed(
                f"engine {entry.name}, {how}: {failure}; this machine does not "
                "reproduce the certificate: import the model again here, or set "
                "CLASSIFIER_ENGINE to another engine"
            )


def _ways(
    executor: Executor, inputs: npt.NDArray[np.generic]
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Every way a request can take, in words, and the logits of all inputs."""
    for batch_size in executor.plan.batch_sizes:
        logits = executor.run_in_parts(inputs, batch_size)
        yield f"batch size {batch_size}", logits
    if executor.plan.solo:
        # Every fourth: the same graph was certified this way at import, and a start must be quick.
        logits[::4] = executor.run_solo(inputs[::4])
        yield "a lone image", logits


def gates_of(entry: EngineEntry) -> Gates:
    """The gates the engine passed at import."""
    certificate = entry.certificate
    return Gates(
        fp32_tolerance=certificate.tolerance or Gates().fp32_tolerance,
        min_agreement=certificate.required_agreement,
        max_accuracy_loss=(
            Gates().max_accuracy_loss
            if certificate.max_accuracy_loss is None
            else certificate.max_accuracy_loss
        ),
    )
