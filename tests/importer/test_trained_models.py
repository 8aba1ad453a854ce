"""Trained weights import with their right preprocessing and give the published numbers."""

from pathlib import Path

import numpy as np
import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.record import Plan
from image_classifier.inference.engines.load import open_graph
from importer.errors import ImportRefused
from preprocessing import DecodeLimits, to_input
from tests.importer.trained_models import LOGIT_TOLERANCES, golden_logits, options_of
from tests.imports import import_quietly
from tests.shared_data import SHARED, needs_shared_data

pytestmark = [needs_shared_data, pytest.mark.slow]


@pytest.mark.parametrize(
    "model",
    [
        "mnist_cnn_tiny",
        # test_through_http.py asks the service for the published numbers of SqueezeNet.
        pytest.param("squeezenet1_1_imagenet", marks=pytest.mark.all),
        pytest.param("mobilenet_v2_tfqat_imagenet", marks=pytest.mark.all),
    ],
)
def test_every_fp32_engine_reproduces_the_published_logits(
    store: Path, tmp_path: Path, model: str
) -> None:
    imported = import_quietly(options_of(model, tmp_path), tmp_path / "model.lock")

    expected = golden_logits(model)
    root = store / "models" / imported.lock.tag.replace(":", "/")
    artifact = open_artifact(root, imported.lock.manifest_sha256)
    images = SHARED / "images" / "nips17_dev"
    preprocessing = artifact.preprocessing()
    assert [entry.name for entry in artifact.evidence.engines] == [
        "openvino-fp32",
        "onnxruntime-fp32",
    ]
    for entry in artifact.evidence.engines:
        plan = Plan(engine=entry.name, streams=1, threads=1, batch_sizes=(1,), service_time_ms=1)
        engine = open_graph(entry, root, artifact.manifest.input.shape)(plan)
        for name, logits in expected.items():
            inputs = to_input((images / name).read_bytes(), preprocessing, DecodeLimits())
            found = engine.run(inputs[np.newaxis])[0]
            assert np.abs(found - logits).max() <= LOGIT_TOLERANCES[model], (entry.name, name)


@pytest.mark.all
@pytest.mark.parametrize("model", ["squeezenet1_1_imagenet", "mobilenet_v2_tfqat_imagenet"])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_reduced_precision_is_within_the_gate_or_refused_with_the_numbers(
    store: Path, tmp_path: Path, model: str, precision: str
) -> None:
    options = options_of(model, tmp_path, golden_count=100, precision=precision)

    try:
        imported = import_quietly(options, tmp_path / "model.lock")
    except ImportRefused as refusal:
        text = str(refusal)
        assert f"openvino-{precision}: " in text
        assert "required is 99.0%" in text or "allowed is 0.50%" in text or "no bf16" in text
        assert not (tmp_path / "model.lock").exists()
        assert not list(store.glob("models/*"))
    else:
        (entry,) = imported.evidence.engines
        proof = entry.certificate
        assert entry.name == f"openvino-{precision}"
        assert proof.samples == 100
        assert proof.agreement >= 0.99
        assert proof.accuracy is not None
        assert proof.reference_accuracy is not None
        assert proof.accuracy >= proof.reference_accuracy - 0.005 - 1e-9
