"""Manifest and evidence: canonical bytes, strict validation."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import ArtifactError
from tests.artifact.builder import contents, manifest_of, parsed


@pytest.fixture
def value() -> dict[str, Any]:
    return manifest_of(contents())


def at(value: dict[str, Any], place: tuple[Any, ...]) -> Any:
    for step in place:
        value = value[step]
    return value


def test_the_bytes_are_sorted_indented_utf_8_in_any_order_of_keys(value: dict[str, Any]) -> None:
    value["golden"][0]["name"] = "Käfer.png"
    reordered = {name: value[name] for name in reversed(value)}
    reordered["files"] = {name: value["files"][name] for name in reversed(value["files"])}

    data = parsed(reordered).to_json()

    plain = json.dumps(json.loads(data), indent=2, sort_keys=True, ensure_ascii=False)
    assert data == (plain + "\n").encode() == parsed(value).to_json()
    assert "Käfer.png".encode() in data


@pytest.mark.parametrize(
    "place",
    [(), ("graphs", 0), ("architecture",), ("preprocessing", "decode")],
    ids=lambda place: ".".join(map(str, place)) or "manifest",
)
def test_unknown_keys_are_refused(value: dict[str, Any], place: tuple[Any, ...]) -> None:
    at(value, place)["suprise"] = 1

    with pytest.raises(ValidationError, match="suprise"):
        parsed(value)


@pytest.mark.parametrize(
    "name",
    ["labels.json", "golden/0001.jpg", "engines/network.onnx", "engines/network.bin",
     "preprocessing/own/own.py"],
)  # fmt: skip
def test_every_file_the_manifest_mentions_needs_a_digest(value: dict[str, Any], name: str) -> None:
    value["graphs"][0]["companions"] = ["engines/network.bin"]
    value["files"]["engines/network.bin"] = "0" * 64
    del value["files"][name]

    with pytest.raises(ValidationError, match=f"no digest for {name}"):
        parsed(value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xfe", "the file: Invalid JSON"),
        (b"[" * 100_000, "the file: Invalid JSON"),
        (b"{}", "schema_version: Field required"),
        (b'{"schema_version": 3}', "schema_version: Input should be 2, found 3"),
    ],
    ids=["no-utf-8", "deep", "no-version", "another-version"],
)
def test_a_malformed_manifest_is_refused_in_one_line(
    tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / "manifest.json").write_bytes(data)

    with pytest.raises(ArtifactError, match=rf"manifest\.json: {message}") as refused:
        open_artifact(tmp_path)

    assert str(refused.value).endswith("; import the model again")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("name",), "Insects"),
        (("name",), "insects-"),
        (("num_classes",), 0),
        (("graphs",), []),
        (("golden",), []),
        (("conformance",), {}),
        (("files", "labels.json"), "0" * 63),
        (("graphs", 0, "format"), "pickle"),
        (("outputs", "threshold"), 0.5),  # the activation is softmax
        *((("outputs",), {"activation": "sigmoid", "threshold": share}) for share in (0, 1)),
        (("preprocessing", "class_name"), None),
        (("architecture", "file"), "network.py"),  # beside the name of torchvision
        (("architecture",), {"file": "../network.py", "builder": "build"}),
        (("architecture",), {"file": "network.py", "builder": "build()"}),
        (("architecture",), {"file": "network.py"}),
    ],
)
def test_invalid_values_are_refused(
    value: dict[str, Any], place: tuple[Any, ...], wrong: object
) -> None:
    at(value, place[:-1])[place[-1]] = wrong

    with pytest.raises(ValidationError):
        parsed(value)
