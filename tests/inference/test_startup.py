"""Before readiness: an engine that does not reproduce its certificate must not serve."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.record import Plan
from image_classifier.inference.engine import Batch, Engine, Logits
from image_classifier.inference.engines.load import open_graph
from image_classifier.inference.executor import Executor
from image_classifier.inference.startup import (
    SelfCheckFailed,
    check_engine,
    golden_inputs,
    load_executor,
)


@pytest.fixture(scope="module")
def artifact(digits_folder: Path) -> Artifact:
    return open_artifact(digits_folder)


class Spoiled:
    """The certified engine with one thing wrong."""

    def __init__(self, engine: Engine, wrong: str) -> None:
        self._engine = engine
        self._wrong = wrong

    def run(self, batch: Batch) -> Logits:
        logits = self._engine.run(batch)
        if self._wrong == "off":
            return logits + np.float32(0.05)
        if self._wrong == "classes reversed":
            return logits[:, ::-1]
        if self._wrong == "batch reversed" and len(batch) > 1:
            return logits[::-1]
        if self._wrong == "damaged":
            return logits * np.float32(np.nan)
        return logits


def check(artifact: Artifact, wrong: str) -> None:
    entry = artifact.evidence.engine("onnxruntime-fp32")
    plan = Plan(engine=entry.name, streams=1, threads=1, batch_sizes=(1, 4), service_time_ms=1)
    input_spec = artifact.manifest.input
    engine = open_graph(entry, artifact.root, input_spec.shape)(plan)
    executor = Executor(Spoiled(engine, wrong), plan, input_spec, artifact.manifest.num_classes)
    inputs = golden_inputs(artifact.golden_samples(), artifact.preprocessing())
    check_engine(artifact, entry, executor, inputs)


def test_a_sound_engine_passes(artifact: Artifact) -> None:
    check(artifact, "nothing")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("off", "batch size 1: a logit is off by"),
        ("classes reversed", "batch size 1: a logit is off by"),
        ("batch reversed", "batch size 4: a logit is off by"),
        ("damaged", "batch size 1: its logits contain NaN"),
    ],
)
def test_a_spoiled_engine_is_refused_with_the_batch_size_and_the_way_out(
    artifact: Artifact, wrong: str, said: str
) -> None:
    with pytest.raises(SelfCheckFailed, match=said) as refused:
        check(artifact, wrong)

    assert "import the model again here, or set CLASSIFIER_ENGINE" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_sample_that_gives_other_pixels_than_at_import_is_refused(artifact: Artifact) -> None:
    first, *others = artifact.golden_samples()
    moved = dataclasses.replace(first, data=others[-1].data)

    with pytest.raises(SelfCheckFailed, match=f"golden sample {first.name}: .* other pixels"):
        golden_inputs([moved, *others], artifact.preprocessing())


def test_deterministic_answers_are_the_same_bits_in_any_company(artifact: Artifact) -> None:
    executor = load_executor(artifact, engine=None, budget_ms=50, deterministic=True)
    inputs = golden_inputs(artifact.golden_samples(), artifact.preprocessing())

    alone = np.concatenate([executor.run(one[np.newaxis]) for one in inputs])

    assert len(executor.plan.batch_sizes) == 1
    for count in (2, 3, 7, 30):
        assert executor.run(inputs[:count]).tobytes() == alone[:count].tobytes()
