"""The OpenAPI document: complete, and everything it offers is accepted."""

import asyncio
import itertools
from typing import Any

import httpx
import pytest

from image_classifier.artifact.manifest import Outputs
from image_classifier.http.schemas import ERRORS
from tests.http.fakes import Answering, app_of

IMAGE = b"\xff\xd8 an image"


def document(default_top_k: int = 5) -> Any:
    return app_of(Answering(), default_top_k=default_top_k).openapi()


def operations() -> dict[str, Any]:
    return {
        f"{method} {path}": operation
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }


def test_it_lists_what_clients_and_operators_may_ask_for() -> None:
    assert operations().keys() == {
        "post /classify",
        "put /classify",
        "get /model",
        "get /metrics",
        "get /livez",
        "get /readyz",
    }


def test_operations_have_ids_of_their_own_and_json_answers_a_schema_with_properties() -> None:
    ids = [operation["operationId"] for operation in operations().values()]
    schemas = document()["components"]["schemas"]

    assert len(ids) == len(set(ids))
    for operation in ("post /classify", "put /classify", "get /model"):
        content = operations()[operation]["responses"]["200"]["content"]["application/json"]
        assert schemas[content["schema"]["$ref"].rpartition("/")[2]]["properties"]
    post, put = operations()["post /classify"], operations()["put /classify"]
    assert {**post, "operationId": ""} == {**put, "operationId": ""}


def test_top_k_goes_up_to_the_number_of_classes_and_is_not_sent_by_default() -> None:
    parameter = next(
        one for one in operations()["post /classify"]["parameters"] if one["name"] == "top_k"
    )

    assert parameter["schema"]["minimum"] == 1
    assert parameter["schema"]["maximum"] == 10
    assert "default" not in parameter["schema"]
    assert "When not given: 5" in parameter["schema"]["description"]


def test_every_error_is_listed_with_an_example_and_the_wait_before_another_try() -> None:
    responses = operations()["post /classify"]["responses"]

    for code, row in ERRORS.items():
        response = responses[str(int(row.status))]
        example = response["content"]["application/json"]["examples"][code]["value"]
        assert example["error"]["code"] == code
        assert ("Retry-After" in response.get("headers", {})) == row.retry


def requests_offered() -> list[Any]:
    """Every method, content type and place of `top_k` that the document offers."""
    offered = []
    for method in ("post", "put"):
        operation = operations()[f"{method} /classify"]
        places: list[dict[str, str]] = [{}] + [
            {parameter["in"]: parameter["name"]} for parameter in operation["parameters"]
        ]
        for kind, content in operation["requestBody"]["content"].items():
            fields = (
                [{}, {"top_k": "3"}] if "top_k" in content["schema"].get("properties", {}) else [{}]
            )
            for place, field in itertools.product(places, fields):
                name = f"{method}-{kind}-{''.join(place)}-{field and 'field'}"
                offered.append(pytest.param(method, kind, place, field, id=name))
    return offered


@pytest.mark.parametrize(("method", "kind", "place", "field"), requests_offered())
def test_what_the_document_offers_is_accepted(
    method: str, kind: str, place: dict[str, str], field: dict[str, str]
) -> None:
    classifier = Answering()
    sent: dict[str, Any] = (
        {"files": {"image": ("a.jpg", IMAGE)}, "data": field}
        if kind == "multipart/form-data"
        else {"content": IMAGE}
    )
    headers = {} if kind == "multipart/form-data" else {"content-type": kind}
    headers |= {place["header"]: "3000"} if "header" in place else {}
    query = {place["query"]: "3"} if "query" in place else {}

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app_of(classifier))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, "/classify", params=query, headers=headers, **sent)

    response = asyncio.run(send())

    assert response.status_code == 200, response.text
    assert classifier.seen == [(IMAGE, 3 if query or field else None)]
    assert (classifier.timeouts_ms != [None]) == ("header" in place)


@pytest.mark.parametrize(
    ("outputs", "kind", "number"),
    [
        (Outputs(), "Prediction", "probability"),
        (Outputs(activation="sigmoid", threshold=0.4), "Prediction", "probability"),
        (Outputs(activation="none"), "Score", "score"),
    ],
)
def test_it_says_whether_answers_hold_probabilities_or_scores(
    outputs: Outputs, kind: str, number: str
) -> None:
    classifier = Answering()
    classifier.outputs = outputs

    found = app_of(classifier).openapi()

    answer = found["components"]["schemas"]["ClassifyAnswer"]["properties"]
    assert answer["predictions"]["items"] == {"$ref": f"#/components/schemas/{kind}"}
    assert number in found["components"]["schemas"][kind]["properties"]
    assert ("threshold" in answer) == (outputs.threshold is not None)
    content = found["paths"]["/classify"]["post"]["responses"]["200"]["content"]
    example = content["application/json"]["example"]
    assert example["predictions"][0].keys() == {"label", "class_id", number}
