"""The OpenAPI document: complete, and everything it offers is accepted."""

import itertools
from typing import Any

from image_classifier.http.schemas import ERRORS
from tests.http.fakes import Answering, app_of, send

IMAGE = b"\xff\xd8 an image"


def document() -> Any:
    return app_of(Answering()).openapi()


def operations() -> dict[str, Any]:
    return {
        f"{method} {path}": operation
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }


def test_operations_have_ids_of_their_own_and_json_answers_a_schema_with_properties() -> None:
    found = operations()

    classify = {"post /classify", "put /classify"}
    others = {"get /model", "get /metrics", "get /livez", "get /readyz"}
    assert found.keys() == classify | others
    assert len({operation["operationId"] for operation in found.values()}) == len(found)
    for name in (*classify, "get /model"):
        content = found[name]["responses"]["200"]["content"]["application/json"]
        schema = content["schema"]["$ref"].rpartition("/")[2]
        assert document()["components"]["schemas"][schema]["properties"]
    post, put = ({**found[name], "operationId": ""} for name in classify)
    assert post == put


def test_every_operation_schema_and_field_says_what_it_is() -> None:
    for name, operation in operations().items():
        assert operation["summary"], name
        assert operation["responses"]["200"]["description"] != "Successful Response", name
    for name, schema in document()["components"]["schemas"].items():
        assert schema["description"], name
        assert "Attributes:" not in schema["description"], name
        bare = [field for field, it in schema["properties"].items() if not it.get("description")]
        assert not bare, (name, bare)


def test_top_k_goes_up_to_the_number_of_classes_and_is_not_sent_by_default() -> None:
    parameters = operations()["post /classify"]["parameters"]
    (schema,) = (one["schema"] for one in parameters if one["name"] == "top_k")

    assert (schema["minimum"], schema["maximum"]) == (1, 10)
    assert "default" not in schema
    assert "When not given: 5" in schema["description"]


def test_every_error_is_listed_with_an_example_and_the_wait_before_another_try() -> None:
    responses = operations()["post /classify"]["responses"]

    for code, row in ERRORS.items():
        response = responses[str(int(row.status))]
        example = response["content"]["application/json"]["examples"][code]["value"]
        assert example["error"]["code"] == code
        assert ("Retry-After" in response.get("headers", {})) == row.retry


def test_what_the_document_offers_is_accepted() -> None:
    """Every method, content type and place of a parameter."""
    classifier = Answering()
    app = app_of(classifier)
    for method in ("post", "put"):
        operation = operations()[f"{method} /classify"]
        places = [{}, *({one["in"]: one["name"]} for one in operation["parameters"])]
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
                assert classifier.seen[-1] == (IMAGE, 3 if query or in_form else None)
                assert (classifier.timeouts_ms[-1] is not None) == ("header" in place)
    # Three kinds of body, three places each; the form also with a field of its own.
    assert len(classifier.seen) == 2 * 3 * (3 + 1)
