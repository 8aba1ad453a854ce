"""Imports of a user's own network, and refusals where no engine reproduces it."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from image_classifier.artifact.store import locate, open_in_store
from importer.errors import ImportRefused
from importer.report import describe_artifact
from model_import import main
from tests.importer.colours import NETWORK, WEIGHTS, colour_options
from tests.imports import command_line, digits_options, import_quietly


def test_a_users_network_is_imported_with_one_image_and_its_ignored_weights_are_listed(
    store: Path, tmp_path: Path
) -> None:
    # Of one example image, the exporter makes the batch size of this a constant.
    halved = "functional.relu(functional.conv2d(batch, torch.zeros(3, 3, 3, 3), stride=2))"
    pooled = f"functional.adaptive_avg_pool2d({halved}, 1).flatten(1)"
    answer = f"logits + functional.linear({pooled}, torch.eye(3))"
    options = colour_options(
        tmp_path, network=answer, weights_ignore=("aux.*",), golden=tmp_path / "golden" / "r"
    )
    save_file(WEIGHTS | {"aux.bias": torch.ones(3)}, tmp_path / "w.safetensors")
    for number in (3, 6, 9):
        (tmp_path / "golden" / "r" / f"{number}.png").unlink()

    tag = import_quietly(options, tmp_path / "model.lock").lock.tag

    artifact = open_in_store(tag)
    assert [entry.name for entry in artifact.manifest.golden] == ["0.png"]
    assert artifact.path_of("architecture/network.py").read_text() == NETWORK.format(answer=answer)
    assert artifact.evidence.ignored_weights == ("aux.bias",)
    assert any("aux.bias" in line for line in describe_artifact(tag, artifact))


# The angle of (0, -1) is pi; ONNX's formula gives -pi. On the dark golden images it is 0.
ANGLE = "torch.atan2(torch.relu(-2 - batch.mean((1, 2, 3))), -batch.mean((1, 2, 3)))"
# Without contrast it is 0 / 0, which OpenVINO's relu turns into 0.
LOW, HIGH = (f"batch.a{end}((1, 2, 3), keepdim=True)" for end in ("min", "max"))
CONTRAST = f"torch.relu((batch - {LOW}) / ({HIGH} - {LOW}))"
# Exported programs answer white pixels differently.
WHITE = "(batch.amax((1, 2, 3)) > 0.99).unsqueeze(1) * torch.compiler.is_compiling()"


@pytest.mark.parametrize(
    ("network", "engine", "found"),
    [
        (f"logits + {ANGLE}.unsqueeze(1)", "onnxruntime-fp32", "off by "),
        (f"self.linear({CONTRAST}.flatten(1))", "openvino-fp32", "one of the two is not finite"),
        (f"logits + {WHITE}", "torch-bf16", "off by "),
    ],
)
def test_an_engine_that_differs_on_images_unlike_the_golden_ones_is_refused(
    store: Path, tmp_path: Path, network: str, engine: str, found: str
) -> None:
    kind, precision = engine.split("-")
    options = colour_options(tmp_path, network=network, engine=kind, precision=precision)

    with pytest.raises(
        ImportRefused, match=rf"{engine}: on .* made of a golden one.*{found}.*--accept odd-images"
    ):
        import_quietly(options, tmp_path / "model.lock")

    accepted = options.model_copy(update={"accept": ("odd-images",)})
    assert import_quietly(accepted, tmp_path / "model.lock").evidence.engines


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (
            "logits * 2 if bool(logits.sum() > 0) else logits.repeat(1, 1)",
            r"export to ONNX failed at line \d+ of network\.py \(`return logits \* 2 if .*`\): ",
        ),
        (
            "logits + torch.linalg.qr(batch[:, 0])[1][:, 0, :3]",
            "export to ONNX failed at operator aten.linalg_qr",
        ),
    ],
    ids=["branches on data", "has no ONNX operator"],
)
def test_a_failed_export_is_reported_in_one_line_and_a_log(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], answer: str, failure: str
) -> None:
    options = colour_options(
        tmp_path, network=answer, engine="auto", precision="auto", lock=tmp_path / "model.lock"
    )
    # All images of a batch take one branch.
    accepted = ["--accept", "batch-dependent"]

    status = main(["--quiet", *command_line(options), *accepted])

    out, err = capfd.readouterr()
    assert (status, out) == (1, "")
    found = re.fullmatch(
        "model_import: no engine passed: openvino-fp32, onnxruntime-fp32: (.*?); "
        "(--engine torch takes the network without ONNX, and serves with torch; )?"
        "the output of the libraries is in (.*)\n",
        err,
    )
    assert found, err
    assert re.match(failure, found[1]), found[1]
    assert bool(found[2]) == ("DataDependent" not in found[1])  # torch's export fails, too
    assert "\x1b" not in err
    text = Path(found[3]).read_text()
    Path(found[3]).unlink()
    assert "Traceback (most recent call last)" in text
    assert "torch/onnx" in text
    assert not (tmp_path / "model.lock").exists()


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize(
    "answer",
    [
        "torch.cat([self.linear(image.flatten()[None]) for image in batch])",
        "logits + torch.zeros(1, 3).expand(len(batch), 3)",
    ],
)
def test_a_forward_that_fixes_the_batch_size_is_refused_without_offering_torch(
    store: Path, tmp_path: Path, answer: str, engine: str
) -> None:
    options = colour_options(tmp_path, network=answer, engine=engine)

    with pytest.raises(
        ImportRefused,
        match=r"export to [^;]* failed: forward turns the batch size .* on the whole batch$",
    ):
        import_quietly(options, tmp_path / "model.lock")


@pytest.mark.all  # NNCF takes a process and half a minute
def test_int8_is_certified_by_agreement(store: Path, tmp_path: Path) -> None:
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
    files = (locate(imported.lock.tag) / "engines").iterdir()
    assert {path.name for path in files} == {"network-int8.bin", "network-int8.xml"}
