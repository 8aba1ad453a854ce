"""The OpenAPI document is complete, and the service accepts everything it offers."""

import itertools
from typing import Any

from image_classifier.http.schemas import ERRORS
from tests.http.fakes import StubClassifier, app_of, send

IMAGE = b"\xff\xd8 an image"


def document() -> Any:
    return app_of(StubClassifier()).openapi()


def operations() -> dict[str, Any]:
    return {
        f"{method} {path}": operation
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }


def test_operations_have_unique_ids_and_answers_have_schemas() -> None:
    found = operations()

    classify = {"post /classify", "put /classify"}
    assert found.keys() == classify | {"get /model", "get /metrics"}
    assert len({operation["operationId"] for operation in found.values()}) == len(found)
    for name in (*classify, "get /model"):
        content = found[name]["responses"]["200"]["content"]["application/json"]
        schema = content["schema"]["$ref"].rpartition("/")[2]
        assert document()["components"]["schemas"][schema]["properties"]
    post, put = ({**found[name], "operationId": ""} for name in classify)
    assert post == put


def test_every_operation_schema_and_field_is_described() -> None:
    for name, operation in operations().items():
        assert operation["summary"], name
        assert operation["responses"]["200"]["description"] != "Successful Response", name
    for name, schema in document()["components"]["schemas"].items():
        assert schema["description"], name
        assert "Attributes:" not in schema["description"], name
        for field, value in schema["properties"].items():
            assert value.get("description"), (name, field)


def test_top_k_is_at_most_the_number_of_classes_and_has_no_default() -> None:
    parameters = operations()["post /classify"]["parameters"]
    (schema,) = (each["schema"] for each in parameters if each["name"] == "top_k")

    assert (schema["minimum"], schema["maximum"]) == (1, 10)
    assert "default" not in schema
    assert "When not given: 5" in schema["description"]


def test_every_error_is_described_with_retry_after_where_a_retry_helps() -> None:
    responses = operations()["post /classify"]["responses"]

    for code, row in ERRORS.items():
        response = responses[str(int(row.status))]
        assert f"`{code}`: {row.meaning}." in response["description"]
        assert ("Retry-After" in response.get("headers", {})) == row.retry


def test_every_offered_method_content_type_and_parameter_is_accepted() -> None:
    classifier = StubClassifier()
    app = app_of(classifier)
    for method in ("post", "put"):
        operation = operations()[f"{method} /classify"]
        places = [{}, *({each["in"]: each["name"]} for each in operation["parameters"])]
        for kind, content in operation["requestBody"]["content"].items():
            has_field = "top_k" in content["schema"].get("properties", {})
            for place, in_form in itertools.product(places, {False, has_field}):
                sent: dict[str, Any] = {"content": IMAGE, "headers": {"content-type": kind}}
                if kind == "multipart/form-data":
                    field = {"top_k": "3"} if in_form else {}
                    sent = {"files": {"image": ("a.jpg", IMAGE)}, "data": field, "headers": {}}
                if "header" in place:
                    sent["headers"][place["header"]] = "3000"
                query = {place["query"]: "3"} if "query" in place else {}

                response = send(app, method, "/classify", params=query, **sent)

                assert response.status_code == 200, (method, kind, place, in_form, response.text)
                assert classifier.calls[-1] == (IMAGE, 3 if query or in_form else None)
    # Two methods, three content types, three places each; the form three times more with a field.
    assert len(classifier.calls) == 2 * (3 * 3 + 3)


def test_answers_hold_probabilities_or_scores() -> None:
    schemas = document()["components"]["schemas"]

    items = schemas["ClassifyAnswer"]["properties"]["predictions"]["items"]
    kinds = [kind["$ref"].rpartition("/")[2] for kind in items["anyOf"]]
    numbers = [schemas[kind]["required"][-1] for kind in kinds]
    assert list(zip(kinds, numbers, strict=True)) == [
        ("Prediction", "probability"),
        ("Score", "score"),
    ]
