"""Swagger UI in a real browser: what it offers, tried as a person tries it."""

from typing import Any

import pytest

from tests.imports import PATIENCE_S, SAMPLES
from tests.service.server import Server

pytestmark = pytest.mark.all


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "application/octet-stream", "image/*"]
)
def test_a_file_is_classified_with_every_content_type_and_parameter(
    embedded: Server, chromium: Any, content_type: str
) -> None:
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE_S * 1_000)
    page = context.new_page()
    page.goto(embedded.url)
    block = page.locator(".opblock-post", has_text="/classify")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    offered = block.locator(".body-param-content-type option").all_inner_texts()

    block.locator(".body-param-content-type select").select_option(content_type)
    block.locator("input[type=file]").set_input_files(SAMPLES / "7-01.png")
    block.locator("tr[data-param-name='top_k'][data-param-in='query'] input").fill("2")
    block.locator("tr[data-param-in='header'] input").fill("60000")
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table tbody tr").first
    answer.locator("td.response-col_status").wait_for()

    assert sorted(offered) == ["application/octet-stream", "image/*", "multipart/form-data"]
    assert answer.locator("td.response-col_status").inner_text().startswith("200")
    text = answer.locator("td.response-col_description").inner_text()
    assert '"label": "7"' in text
    assert text.count('"label"') == 2
    context.close()
