"""Networks of every family of torchvision that is named in the docs export and verify."""

from pathlib import Path

import pytest
import torch
import torchvision.models
from safetensors.torch import save_model

from tests.importer_models.shared_models import IMAGENET, spec_file
from tests.imports import SAMPLES, import_quietly

pytestmark = pytest.mark.slow
SMALLEST = (
    "convnext_tiny",
    "efficientnet_b0",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "squeezenet1_1",
    "swin_t",
    "vit_b_32",
)


@pytest.mark.parametrize("name", SMALLEST)
def test_both_engines_pass(store: Path, tmp_path: Path, name: str) -> None:
    from importer.options import ImportOptions

    torch.manual_seed(0)
    save_model(torchvision.models.get_model(name, num_classes=7), str(tmp_path / "weights.st"))
    (tmp_path / "labels.txt").write_text("\n".join("abcdefg"))
    options = ImportOptions.model_validate(
        {
            "name": "family",
            "network": f"torchvision:{name}",
            "network_kwargs": {"num_classes": 7},
            "weights": str(tmp_path / "weights.st"),
            "preprocessing": spec_file(
                tmp_path, {"resize": {"size": 224, "mode": "exact"}, **IMAGENET}
            ),
            "labels": tmp_path / "labels.txt",
            "golden": _without_labels(tmp_path),
            "golden_count": 4,
            "measure_seconds": 0.001,
        }
    )

    imported = import_quietly(options, tmp_path / "model.lock")

    assert [
        (attempt.engine, attempt.verdict, attempt.reason) for attempt in imported.record.attempts
    ] == [("openvino-fp32", "passed", ""), ("onnxruntime-fp32", "passed", "")]


def _without_labels(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, path in enumerate(sorted(SAMPLES.iterdir())[::8]):
        (folder / f"picture{number}{path.suffix}").symlink_to(path)
    return folder
