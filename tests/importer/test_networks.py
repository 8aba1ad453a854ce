"""Networks that engines cannot take, or must not."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.store import locate
from importer.errors import ImportRefused
from importer.options import ImportOptions
from importer.report import describe_artifact
from model_import import main
from tests.imports import SAMPLES, digits_options, import_quietly

LINEAR = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1024, 10)

    def forward(self, batch):
        logits = self.linear(batch.flatten(1))
        {end}


def build():
    return Net()
"""
BRANCHES_ON_DATA = "return logits * 2 if bool(logits.sum() > 0) else logits.repeat(1, 1)"
HAS_NO_ONNX_OPERATOR = "return logits + torch.linalg.qr(batch[:, 0, :10, :10])[1][:, 0]"
MIXES_THE_BATCH = "return logits - logits.mean(dim=0, keepdim=True) / 2"


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    weights = {"linear.weight": torch.randn(10, 1024) / 32, "linear.bias": torch.randn(10)}
    save_file(weights, tmp_path / "linear.safetensors")
    return tmp_path


def options(folder: Path, end: str, **changes: object) -> ImportOptions:
    (folder / "linear.py").write_text(LINEAR.format(end=end))
    return digits_options(
        name="linear",
        network=f"{folder}/linear.py:build",
        weights=str(folder / "linear.safetensors"),
        golden_labels=None,  # the weights are random, so it reads no digit right
        **changes,
    )


def test_a_network_of_ones_own_is_imported_with_one_image_and_its_ignored_weights_are_listed(
    store: Path, linear: Path
) -> None:
    weights = load_file(linear / "linear.safetensors")
    save_file(weights | {"aux.bias": torch.ones(3)}, linear / "linear.safetensors")

    golden = linear / "golden"
    golden.mkdir()
    (golden / "8.png").write_bytes((SAMPLES / "8-02.png").read_bytes())

    given = options(
        linear, "return logits", engine="onnxruntime", weights_ignore=("aux.*",), golden=golden
    )
    imported = import_quietly(given, linear / "model.lock")

    assert len(imported.manifest.golden) == 1

    opened = open_artifact(locate(imported.lock.tag), imported.lock.manifest_sha256)
    assert opened.path_of("architecture/linear.py").read_text() == LINEAR.format(
        end="return logits"
    )
    assert opened.evidence.ignored_weights == ("aux.bias",)
    assert any("aux.bias" in line for line in describe_artifact(imported.lock.tag, opened))


@pytest.mark.parametrize(
    ("end", "failure"),
    [
        (
            BRANCHES_ON_DATA,
            r"export to ONNX failed at line \d+ of linear\.py \(`return logits \* 2 if .*`\): ",
        ),
        (HAS_NO_ONNX_OPERATOR, "export to ONNX failed at operator aten.linalg_qr"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_exported_is_one_line_and_a_log(
    store: Path, linear: Path, capfd: pytest.CaptureFixture[str], end: str, failure: str
) -> None:
    given = options(linear, end)

    status = main(
        ["--name", given.name, "--network", str(given.network), "--weights", given.weights,
         "--preprocessing", str(given.preprocessing), "--labels", str(given.labels),
         "--golden", str(given.golden), "--lock", str(linear / "model.lock"), "--quiet"]
    )  # fmt: skip

    out, err = capfd.readouterr()
    assert (status, out) == (1, "")
    found = re.fullmatch(
        "model_import: no engine passed: openvino-fp32, onnxruntime-fp32: (.*); "
        "what the libraries said is in (.*)\n",
        err,
    )
    assert found, err
    assert re.match(failure, found[1]), found[1]
    assert "\x1b" not in err
    text = Path(found[2]).read_text()
    Path(found[2]).unlink()
    assert "Traceback (most recent call last)" in text
    assert "torch/onnx" in text
    assert not (linear / "model.lock").exists()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        # Image by image it is as good as any: only in company do its answers change.
        (MIXES_THE_BATCH, "onnxruntime-fp32: in batches of 2: a logit is off by"),
        ("return logits.softmax(1)", "are probabilities, expected logits; leave its softmax out"),
    ],
)
def test_a_network_whose_answers_would_be_served_wrong_is_refused(
    store: Path, linear: Path, end: str, reason: str
) -> None:
    with pytest.raises(ImportRefused, match=reason):
        import_quietly(
            options(linear, end, engine="onnxruntime", accept=("batch-dependent",)),
            linear / "model.lock",
        )


@pytest.mark.all  # NNCF takes a process and half a minute
def test_forced_int8_is_certified_by_agreement_or_refused_with_its_numbers(
    store: Path, tmp_path: Path
) -> None:
    imported = import_quietly(
        digits_options(
            engine="openvino", precision="int8", gate_agreement=0.9, gate_accuracy_loss=0.1
        ),
        tmp_path / "model.lock",
    )

    (entry,) = imported.evidence.engines
    assert (entry.name, entry.certificate.tolerance) == ("openvino-int8", None)
    assert entry.certificate.required_agreement == 0.9
    assert entry.certificate.agreement >= 0.9
    assert 0 < entry.certificate.max_logit_difference < 10
    # The fp32 graph it was made from is not certified, so it is not in the artifact.
    folder = locate(imported.lock.tag) / "engines"
    assert sorted(path.name for path in folder.iterdir()) == [
        "network-int8.bin",
        "network-int8.xml",
    ]
