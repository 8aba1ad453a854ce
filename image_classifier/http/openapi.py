"""The OpenAPI document behind Swagger UI."""

from collections.abc import Iterator
from typing import Any

from image_classifier.http.schemas import ERRORS

DESCRIPTION = """\
Classifies one image a request: JPEG, PNG, WebP, GIF or BMP (first frame).

Every error has the same shape: `{"error": {"code", "message", "request_id"}}`.
The answers are proven equal to those of the trained model; `/model` shows the proof.
"""
BINARY = {"type": "string", "format": "binary"}
MODEL_EXAMPLE = {"tag": "digits:0123456789abcdef", "digest": "0123456789abcdef" * 4}
REQUEST_ID_EXAMPLE = "6f1c1f0d3c5b4f0f9d6a0a3d5a1b2c3d"


def openapi_document(version: str, labels: tuple[str, ...], default_top_k: int) -> dict[str, Any]:
    """The document, OpenAPI 3.0.3.

    Args:
        version: Tag of the model.
        labels: Labels of the classes; the first ones make the example.
        default_top_k: Predictions where the request does not say.
    """
    return {
        "openapi": "3.0.3",
        "info": {"title": "Image classifier", "description": DESCRIPTION, "version": version},
        "servers": [{"url": "."}],
        "tags": [
            {"name": "Classify", "description": "Images in, predictions out."},
            {"name": "Operate", "description": "What is loaded, and whether it is well."},
        ],
        "paths": {
            "/classify": {"post": _classify(labels, default_top_k)},
            "/model": {"get": _get("What this process loaded, with its certificates.", "Operate")},
            "/livez": {"get": _probe("200 as long as the process lives.")},
            "/readyz": {"get": _probe("200 once the model is loaded, warm and checked.")},
            "/metrics": {"get": _probe("Prometheus metrics.")},
        },
        "components": {"schemas": _schemas()},
    }


def _classify(labels: tuple[str, ...], default_top_k: int) -> dict[str, Any]:
    classes = len(labels)
    default = min(default_top_k, classes)
    top_k = {"type": "integer", "minimum": 1, "maximum": classes, "default": default}
    form = {
        "type": "object",
        "required": ["image"],
        "properties": {"image": {**BINARY, "description": "The image file."}, "top_k": top_k},
    }
    example = {
        "predictions": [{"label": labels[0], "class_id": 0, "probability": 0.98}],
        "model": MODEL_EXAMPLE,
        "request_id": REQUEST_ID_EXAMPLE,
    }
    return {
        "tags": ["Classify"],
        "operationId": "classify",
        "summary": "Classify one image",
        "description": "As a form with the part `image`, or the raw file as the body "
        "(`curl -T photo.jpg …/classify`, which sends PUT, works too). Header "
        "`X-Request-Id` is taken over and comes back; `Server-Timing` says how many "
        "milliseconds decoding, waiting and inference took.",
        "parameters": [
            {
                "name": "top_k",
                "in": "query",
                "description": "How many predictions, most probable first.",
                "schema": top_k,
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/octet-stream": {"schema": BINARY},
                "image/*": {"schema": BINARY},
            },
        },
        "responses": {
            "200": {
                "description": "The predictions.",
                "content": {
                    "application/json": {
                        "schema": {"$ref": "#/components/schemas/Answer"},
                        "example": example,
                    }
                },
            },
            **dict(_error_responses()),
        },
    }


def _error_responses() -> Iterator[tuple[str, Any]]:
    by_status: dict[int, dict[str, str]] = {}
    for code, row in ERRORS.items():
        by_status.setdefault(int(row.status), {})[code] = row.meaning
    for status, meanings in sorted(by_status.items()):
        examples = {
            code: {
                "value": {
                    "error": {"code": code, "message": text, "request_id": REQUEST_ID_EXAMPLE}
                }
            }
            for code, text in meanings.items()
        }
        schema = {"$ref": "#/components/schemas/Error"}
        content = {"application/json": {"schema": schema, "examples": examples}}
        yield str(status), {"description": " ".join(meanings.values()), "content": content}


def _get(description: str, tag: str) -> dict[str, Any]:
    answer = {"description": description, "content": {"application/json": {"schema": {}}}}
    return {"tags": [tag], "summary": description, "responses": {"200": answer}}


def _probe(description: str) -> dict[str, Any]:
    answer = {"description": description, "content": {"text/plain": {"schema": {}}}}
    return {"tags": ["Operate"], "summary": description, "responses": {"200": answer}}


def _schemas() -> dict[str, Any]:
    text = {"type": "string"}
    prediction = {
        "label": text,
        "class_id": {"type": "integer", "minimum": 0},
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
    }
    model = {"tag": text, "digest": {**text, "description": "sha256 of the manifest."}}
    error = {"code": text, "message": text, "request_id": text}
    return {
        "Answer": _object(
            predictions={"type": "array", "items": _object(**prediction)},
            model=_object(**model),
            request_id=text,
        ),
        "Error": _object(error=_object(**error)),
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}
