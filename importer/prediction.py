"""Predictions for image files, by the engine that serves, without a server."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_classifier.artifact.artifact import Artifact
from image_classifier.inference.engine import Batch
from image_classifier.inference.executor import Executor
from image_classifier.inference.machine import usable_cores
from image_classifier.inference.predictions import (
    DamagedLogits,
    Prediction,
    Score,
    top_k_predictions,
)
from importer.golden_images import begins_like_image, visible_files
from preprocessing import DecodeLimits, Preprocessing, to_input
from preprocessing.errors import ClientError, PreprocessingBug

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})


@dataclass(frozen=True, kw_only=True)
class FileAnswer:
    """The predictions for one file, or why there are none.

    Attributes:
        file: Path of the file, as given or found.
        predictions: Most probable first; empty if there is an error.
        code: Error code, as HTTP clients get it, or "unreadable" if the file cannot be read; empty
            without an error.
        message: Error message.
    """

    file: str
    predictions: tuple[Prediction | Score, ...] = ()
    code: str = ""
    message: str = ""


def image_files(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files to classify, and the other files found in folders.

    A file that is named is always classified. In a folder and its sub-folders, sorted, files are
    classified that begin like an image or have the suffix of one; hidden files are ignored.
    """
    files: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        for file in visible_files(path):
            is_image = True
            with contextlib.suppress(OSError):  # reported as the error of this file
                is_image = file.suffix.lower() in IMAGE_SUFFIXES or begins_like_image(file)
            (files if is_image else others).append(file)
    return files, others


def classify_files(
    artifact: Artifact, executor: Executor, files: Sequence[Path], top_k: int
) -> Iterator[FileAnswer]:
    """Yield the answer for each file, in order.

    Args:
        executor: The artifact's engine, loaded and checked.
        top_k: Most predictions per image. A model with a threshold answers all labels that reach
            it.
    """
    labels, outputs, plan = artifact.labels(), artifact.manifest.outputs, executor.plan
    top_k = top_k if outputs.threshold is None else len(labels)
    cores = usable_cores()
    files_at_a_time = 4 * (plan.streams * plan.batch_sizes[-1] + cores)
    read = functools.partial(_read_input, preprocessing=artifact.preprocessing)
    with ThreadPoolExecutor(cores) as pool:
        for start in range(0, len(files), files_at_a_time):
            chunk = files[start : start + files_at_a_time]
            inputs = list(pool.map(read, chunk))
            batch = [item for item in inputs if not isinstance(item, FileAnswer)]
            rows = iter(executor.run(np.stack(batch)) if batch else ())
            for file, item in zip(chunk, inputs, strict=True):
                if isinstance(item, FileAnswer):
                    yield item
                    continue
                try:
                    predictions = top_k_predictions(next(rows), labels, top_k, outputs)
                except DamagedLogits as error:
                    yield FileAnswer(file=str(file), code="internal_error", message=str(error))
                else:
                    yield FileAnswer(file=str(file), predictions=predictions)


def _read_input(file: Path, preprocessing: Preprocessing) -> Batch | FileAnswer:
    """Return the input (H, W, C) made from a file, or the error."""
    limits = DecodeLimits()
    try:
        with file.open("rb") as stream:
            data = stream.read(limits.max_bytes + 1)
        return to_input(data, preprocessing, limits)
    except OSError as error:
        return FileAnswer(file=str(file), code="unreadable", message=error.strerror or "")
    except ClientError as error:
        return FileAnswer(file=str(file), code=error.code, message=str(error))
    except PreprocessingBug as error:
        return FileAnswer(file=str(file), code="internal_error", message=str(error))
