"""Predictions for image files, made by the pipeline that serves, without a server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from image_classifier.artifact.artifact import Artifact
from image_classifier.inference.classifier import Classifier
from image_classifier.inference.executor import Executor
from image_classifier.inference.machine import usable_cores
from image_classifier.inference.predictions import DamagedLogits, Prediction, Score
from image_classifier.inference.runner import LocalRunner
from image_classifier.settings import Settings
from importer.golden_images import begins_like_image, visible_files
from preprocessing.errors import ClientError, PreprocessingBug

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})
NO_LIMIT_MS = 1e12


@dataclass(frozen=True, kw_only=True)
class FileAnswer:
    """What became of one file.

    Attributes:
        file: Its path, as it was given or found.
        predictions: Most probable first; empty where there is an error.
        code: Of the error, as clients get it; "unreadable" where the file cannot be read; empty
            where there is none.
        message: What is wrong with the file.
    """

    file: str
    predictions: tuple[Prediction | Score, ...] = ()
    code: str = ""
    message: str = ""


def image_files(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files to classify, and those in folders that are no images.

    A file that is named counts in any case. Of folders and their sub-folders, sorted, those that
    begin like an image or are called like one; hidden files are left out.
    """
    files: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        for file in visible_files(path):
            is_image = True
            with contextlib.suppress(OSError):  # it becomes a row with the reason
                is_image = file.suffix.lower() in IMAGE_SUFFIXES or begins_like_image(file)
            (files if is_image else others).append(file)
    return files, others


async def classify_files(
    artifact: Artifact, executor: Executor, files: Sequence[Path], top_k: int
) -> AsyncIterator[FileAnswer]:
    """Yield the answer to each file, in their order.

    Args:
        executor: Of the artifact, loaded and checked.
        top_k: Predictions an image; all classes where there are fewer.
    """
    runner = LocalRunner(executor)
    cores = usable_cores()
    at_a_time = 4 * (runner.concurrency * runner.max_batch_size + cores)
    # `model_copy` checks nothing: a server may not wait so long.
    no_limit = dict.fromkeys(("timeout_ms", "max_wait_ms", "overload_wait_ms"), NO_LIMIT_MS)
    changed = {"max_queue": at_a_time, "default_top_k": top_k, **no_limit}
    settings = Settings.from_env({}).model_copy(update=changed)
    classifier = Classifier(artifact, runner, settings, cores=cores, workers=1)

    async def classified(path: Path) -> FileAnswer:
        try:
            data = await asyncio.to_thread(_read, path, settings.max_body_bytes + 1)
            answer = await classifier.classify(data, None)
        except OSError as error:
            return FileAnswer(file=str(path), code="unreadable", message=error.strerror or "")
        except ClientError as error:
            return FileAnswer(file=str(path), code=error.code, message=str(error))
        except (PreprocessingBug, DamagedLogits) as error:
            return FileAnswer(file=str(path), code="internal_error", message=str(error))
        return FileAnswer(file=str(path), predictions=answer.predictions)

    for start in range(0, len(files), at_a_time):
        for made in await asyncio.gather(*map(classified, files[start : start + at_a_time])):
            yield made


def _read(path: Path, max_bytes: int) -> bytes:
    with path.open("rb") as file:
        return file.read(max_bytes)
