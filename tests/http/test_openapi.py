"""The OpenAPI document, without a server."""

import pytest
from image_classifier.http.openapi import openapi_document


@pytest.mark.parametrize(("labels", "default"), [(2, 2), (5, 5), (10, 5)])
def test_the_default_of_top_k_is_one_the_service_takes(labels: int, default: int) -> None:
    document = openapi_document("t:0", tuple("abcdefghij"[:labels]), 5)

    (parameter,) = document["paths"]["/classify"]["post"]["parameters"]
    assert parameter["schema"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": labels,
        "default": default,
    }
