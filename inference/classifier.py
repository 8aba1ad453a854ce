"""From file bytes to ranked predictions: decode in threads, infer through the batcher."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from errors import DeadlineExceeded, MalformedRequest
from inference.admission import Admission
from inference.batcher import Batcher
from inference.predictions import Prediction, top_k_predictions
from preprocessing import DecodeLimits, Preprocessing, to_input


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of one image.

    Attributes:
        predictions: Most probable first.
        decode_ms: Milliseconds from its turn to the ready input, waiting for a thread included.
        queue_ms: Milliseconds it waited for a free stream.
        infer_ms: Milliseconds its batch ran.
        batch_size: Images in its batch.
    """

    predictions: tuple[Prediction, ...]
    decode_ms: float
    queue_ms: float
    infer_ms: float
    batch_size: int


class Classifier:
    """Classifies images, one call an image; belongs to one event loop.

    Args:
        threads: Images decoded at a time.
        timeout_ms: Longest time of one call.
    """

    def __init__(
        self,
        *,
        preprocessing: Preprocessing,
        limits: DecodeLimits,
        labels: tuple[str, ...],
        batcher: Batcher,
        admission: Admission,
        threads: int,
        timeout_ms: float,
        default_top_k: int,
    ) -> None:
        self._preprocessing = preprocessing
        self._limits = limits
        self._labels = labels
        self._batcher = batcher
        self._admission = admission
        self._pool = ThreadPoolExecutor(threads, "decode")
        self._timeout_s = timeout_ms / 1e3
        self._default_top_k = min(default_top_k, len(labels))

    async def classify(self, image: bytes, top_k: int | None) -> Answer:
        """Classify one image file.

        Args:
            image: Bytes of a JPEG, PNG, WebP, GIF or BMP file.
            top_k: Number of predictions, in 1..classes; None takes the default.

        Raises:
            ClientVisibleError: What is wrong with the file or `top_k`; Overloaded;
                DeadlineExceeded.
        """
        count = self._checked(top_k)
        with self._admission.admit():
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._answer(image, count)
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"no answer within {self._timeout_s * 1e3:.0f} ms"
                ) from error

    async def _answer(self, image: bytes, top_k: int) -> Answer:
        begun = time.perf_counter()
        # Alone, before batching: a bad file never touches a neighbour.
        inputs = await asyncio.get_running_loop().run_in_executor(
            self._pool, to_input, image, self._preprocessing, self._limits
        )
        decoded = time.perf_counter()
        inference = await self._batcher.submit(inputs)
        return Answer(
            predictions=top_k_predictions(inference.logits, self._labels, top_k),
            decode_ms=(decoded - begun) * 1e3,
            queue_ms=inference.queue_ms,
            infer_ms=inference.infer_ms,
            batch_size=inference.batch_size,
        )

    def _checked(self, top_k: int | None) -> int:
        if top_k is None:
            return self._default_top_k
        if not 1 <= top_k <= len(self._labels):
            raise MalformedRequest(f"top_k is {top_k}; expected 1..{len(self._labels)}")
        return top_k
