"""Manifests: canonical, strict, readable for ever."""

import json
from pathlib import Path
from typing import Any

import pytest

from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.manifest import Manifest, parse_manifest
from tests.artifact.builder import contents, manifest_of, parsed

RELEASED = sorted((Path(__file__).parent / "manifests").glob("v*.json"))


@pytest.fixture
def value() -> dict[str, Any]:
    return manifest_of(contents())


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_a_manifest_of_every_released_schema_stays_readable(path: Path) -> None:
    manifest = parse_manifest(path.read_bytes(), str(path))

    assert manifest.schema_version == int(path.name[1])
    # Its digest is its name in locks out there: the bytes must come out as they went in.
    assert manifest.to_json() == path.read_bytes()


def test_the_corpus_has_each_kind_of_manifest() -> None:
    assert {path.stem for path in RELEASED} >= {"v1-own-class", "v1-spec", "v1-float32-cuda"}


def test_a_manifest_comes_back_as_it_was_written(value: dict[str, Any]) -> None:
    manifest = parsed(value)

    assert parse_manifest(manifest.to_json(), "there") == manifest


def test_the_bytes_do_not_depend_on_the_order_in_which_things_were_found(
    value: dict[str, Any],
) -> None:
    reordered = {name: value[name] for name in reversed(value)}
    reordered["files"] = {name: value["files"][name] for name in reversed(value["files"])}

    assert parsed(reordered).to_json() == parsed(value).to_json()


def test_the_bytes_are_sorted_indented_utf_8_with_one_final_newline(value: dict[str, Any]) -> None:
    value["golden"][0]["name"] = "Käfer.png"

    data = parsed(value).to_json()

    assert data == (json.dumps(json.loads(data), indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()  # noqa: E501  # fmt: skip
    assert "Käfer.png".encode() in data


@pytest.mark.parametrize(
    "place",
    [(), ("preprocessing",), ("engines", 0), ("engines", 0, "certificate"), ("golden", 0),
     ("architecture",), ("preprocessing", "decode")],
    ids=lambda place: ".".join(map(str, place)) or "manifest",
)  # fmt: skip
def test_an_unknown_key_anywhere_is_refused(value: dict[str, Any], place: tuple[Any, ...]) -> None:
    spoiled: Any = value
    for step in place:
        spoiled = spoiled[step]
    spoiled["suprise"] = 1

    with pytest.raises(ArtifactError, match="suprise"):
        parsed(value)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../outside", "engines/../../outside", "engines/..", "./labels.json",
     "engines//network.onnx", "engines/network.onnx/", "", "."],
)  # fmt: skip
def test_a_file_name_that_leaves_the_artifact_or_is_not_plain_is_refused(
    value: dict[str, Any], name: str
) -> None:
    value["files"][name] = "0" * 64

    with pytest.raises(ArtifactError, match="leaves the artifact"):
        parsed(value)


@pytest.mark.parametrize(
    "name",
    ["labels.json", "golden/logits.npy", "golden/0001.jpg", "engines/network.onnx",
     "preprocessing/own/own.py"],
)  # fmt: skip
def test_a_file_that_is_used_must_have_a_digest(value: dict[str, Any], name: str) -> None:
    del value["files"][name]

    with pytest.raises(ArtifactError, match=f"no digest for {name}"):
        parsed(value)


def test_what_an_engine_needs_beside_its_graph_must_have_a_digest(value: dict[str, Any]) -> None:
    value["engines"][0]["companions"] = ["engines/network.bin"]

    with pytest.raises(ArtifactError, match=r"no digest for engines/network\.bin"):
        parsed(value)


@pytest.mark.parametrize("version", [0, 2, "1", 1.5, True, None])
def test_a_schema_version_that_is_not_known_is_refused_with_the_way_out(
    value: dict[str, Any], version: object
) -> None:
    value["schema_version"] = version

    with pytest.raises(ArtifactError, match=r"schema.version.*import the model again"):
        parsed(value)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b'"manifest"', b"[" * 100_000, b"{}"],
    ids=["empty", "cut", "no-utf-8", "list", "null", "text", "deep", "no-version"],
)
def test_what_is_no_manifest_is_the_operators_error_in_one_line(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"^there: .*import the model again") as refused:
        parse_manifest(data, "there")

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("name",), "Insects"),
        (("name",), "../insects"),
        (("name",), "insects-"),
        (("name",), "a" * 64),
        (("num_classes",), 0),
        (("engines",), []),
        (("golden",), []),
        (("reference",), "guessed"),
        (("files", "labels.json"), "0" * 63),
        (("files", "labels.json"), "G" * 64),
        (("engines", 0, "kind"), "pickle"),
        (("preprocessing", "input_dtype"), "int8"),
        (("preprocessing", "class_name"), None),
        (("preprocessing", "file"), None),
    ],
)
def test_a_value_that_cannot_be_is_refused(
    value: dict[str, Any], place: tuple[Any, ...], wrong: object
) -> None:
    spoiled: Any = value
    for step in place[:-1]:
        spoiled = spoiled[step]
    spoiled[place[-1]] = wrong

    with pytest.raises(ArtifactError, match=r"manifest\.json: "):
        parsed(value)


def test_an_engine_is_found_by_its_name_or_the_names_there_are_are_told(
    value: dict[str, Any],
) -> None:
    manifest: Manifest = parsed(value)

    assert manifest.engine("openvino-fp32").file == "engines/network.onnx"
    with pytest.raises(ArtifactError, match="no certified engine 'one'; there are openvino-fp32"):
        manifest.engine("one")


def test_two_engines_of_one_name_are_refused(value: dict[str, Any]) -> None:
    value["engines"] *= 2

    with pytest.raises(ArtifactError, match="openvino-fp32"):
        parsed(value)
