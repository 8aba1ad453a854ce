"""Manifest and evidence: canonical bytes, strict reading."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from image_classifier.artifact.evidence import Evidence
from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.manifest import parse_manifest
from tests.artifact.builder import contents, evidence_of, manifest_of, parsed


@pytest.fixture
def value() -> dict[str, Any]:
    return manifest_of(contents())


def at(value: dict[str, Any], place: tuple[Any, ...]) -> Any:
    for step in place:
        value = value[step]
    return value


def test_the_bytes_are_sorted_indented_utf_8_whatever_the_order_of_the_parts(
    value: dict[str, Any],
) -> None:
    value["golden"][0]["name"] = "Käfer.png"
    reordered = {name: value[name] for name in reversed(value)}
    reordered["files"] = {name: value["files"][name] for name in reversed(value["files"])}

    data = parsed(reordered).to_json()

    plain = json.dumps(json.loads(data), indent=2, sort_keys=True, ensure_ascii=False)
    assert data == (plain + "\n").encode() == parsed(value).to_json()
    assert "Käfer.png".encode() in data
    assert parse_manifest(data, "there") == parsed(value)


@pytest.mark.parametrize(
    "place",
    [(), ("graphs", 0), ("architecture",), ("preprocessing", "decode")],
    ids=lambda place: ".".join(map(str, place)) or "manifest",
)
def test_an_unknown_key_anywhere_is_refused(value: dict[str, Any], place: tuple[Any, ...]) -> None:
    at(value, place)["suprise"] = 1

    with pytest.raises(ArtifactError, match="suprise"):
        parsed(value)


OUTSIDE = ["/etc/passwd", "../outside", "engines/../../outside", "engines/..", "./labels.json",
           "engines//network.onnx", "engines/network.onnx/", "", "."]  # fmt: skip
RESERVED = ["evidence.json", "golden/logits.npy", "record.json", "model.sig", "manifest.json"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, "leaves the artifact") for name in OUTSIDE),
        *((name, f"{name} cannot be part of the identity") for name in RESERVED),
    ],
)
def test_a_file_name_that_leaves_the_artifact_or_the_identity_is_refused(
    value: dict[str, Any], name: str, message: str
) -> None:
    value["files"][name] = "0" * 64

    with pytest.raises(ArtifactError, match=message):
        parsed(value)


@pytest.mark.parametrize(
    "name",
    ["labels.json", "golden/0001.jpg", "engines/network.onnx", "engines/network.bin",
     "preprocessing/own/own.py"],
)  # fmt: skip
def test_a_file_that_is_used_must_have_a_digest(value: dict[str, Any], name: str) -> None:
    value["graphs"][0]["companions"] = ["engines/network.bin"]
    value["files"]["engines/network.bin"] = "0" * 64
    del value["files"][name]

    with pytest.raises(ArtifactError, match=f"no digest for {name}"):
        parsed(value)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"[]", b"[" * 100_000, b"{}"],
    ids=["empty", "no-utf-8", "list", "deep", "no-version"],
)
def test_a_file_that_is_no_manifest_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"^there: .*import the model again") as refused:
        parse_manifest(data, "there")

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        *((("schema_version",), version) for version in (0, 1, 3, "2", 2.5, True, None)),
        (("name",), "Insects"),
        (("name",), "insects-"),
        (("num_classes",), 0),
        (("graphs",), []),
        (("golden",), []),
        (("conformance",), {}),
        (("files", "labels.json"), "0" * 63),
        (("graphs", 0, "format"), "pickle"),
        (("input", "dtype"), "int8"),
        (("outputs", "activation"), "relu"),
        (("outputs", "threshold"), 0.5),  # the activation is softmax
        *((("outputs",), {"activation": "sigmoid", "threshold": share}) for share in (0, 1)),
        (("preprocessing", "class_name"), None),
        (("architecture", "file"), "network.py"),  # beside the name of torchvision
        (("architecture",), {"file": "../network.py", "builder": "build"}),
        (("architecture",), {"file": "network.py", "builder": "build()"}),
        (("architecture",), {"file": "network.py"}),
    ],
)
def test_an_impossible_value_is_refused(
    value: dict[str, Any], place: tuple[Any, ...], wrong: object
) -> None:
    at(value, place[:-1])[place[-1]] = wrong

    with pytest.raises(ArtifactError, match=r"manifest\.json: .*; import the model again"):
        parsed(value)


def test_two_engines_of_one_name_are_refused() -> None:
    value = evidence_of(contents(), "0" * 64)
    value["engines"] *= 2

    with pytest.raises(ValidationError, match="openvino-fp32"):
        Evidence.model_validate(value)
