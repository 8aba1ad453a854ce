"""From file bytes to ranked predictions, within admission and a time limit."""

import asyncio
from dataclasses import dataclass

from image_classifier.errors import DeadlineExceeded, MalformedRequest
from image_classifier.inference.admission import Admission
from image_classifier.inference.pipeline import Pipeline, StagedInference
from image_classifier.inference.predictions import Prediction, top_k_predictions


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of one image.

    Attributes:
        predictions: Most probable first.
    """

    predictions: tuple[Prediction, ...]
    inference: StagedInference


class Classifier:
    """Classifies images, one call an image; belongs to one event loop.

    Args:
        labels: Label of each class, in the order of the logits.
        timeout_ms: Longest time of one call.
        default_top_k: Predictions where a call does not say; cut to the number of classes.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        admission: Admission,
        labels: tuple[str, ...],
        *,
        timeout_ms: float,
        default_top_k: int,
    ) -> None:
        self._pipeline = pipeline
        self._admission = admission
        self._labels = labels
        self._timeout_ms = timeout_ms
        self._default_top_k = min(default_top_k, len(labels))

    @property
    def num_classes(self) -> int:
        """The largest `top_k`."""
        return len(self._labels)

    def refuse_if_overloaded(self) -> None:
        """Raise Overloaded where an image would be refused at present, whatever it is."""
        self._admission.refuse_if_overloaded()

    async def classify(self, image: bytes, top_k: int | None) -> Answer:
        """Classify one image file.

        Args:
            image: Bytes of a JPEG, PNG, WebP, GIF or BMP file.
            top_k: Number of predictions, in 1..classes; None takes the default.

        Raises:
            ClientError: What is wrong with the file or `top_k`; Overloaded;
                DeadlineExceeded.
        """
        count = self._checked(top_k)
        with self._admission.reserve() as reservation:
            try:
                async with asyncio.timeout(self._timeout_ms / 1e3):
                    inference = await self._pipeline.run(image, reservation)
            except TimeoutError as error:
                raise DeadlineExceeded(f"no answer within {self._timeout_ms:.0f} ms") from error
        return Answer(
            predictions=top_k_predictions(inference.logits, self._labels, count),
            inference=inference,
        )

    def _checked(self, top_k: int | None) -> int:
        if top_k is None:
            return self._default_top_k
        if not 1 <= top_k <= len(self._labels):
            raise MalformedRequest(f"top_k is {top_k}; expected 1..{len(self._labels)}")
        return top_k
