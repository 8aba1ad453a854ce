"""Reading the image and top_k of a request, without a server."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from image_classifier.errors import (
    BodyTooLarge,
    MalformedRequest,
    Overloaded,
    UnsupportedMediaType,
)
from image_classifier.http.uploads import BodyBudget, Upload, read_upload
from tests.http.fakes import Connection, scope_of
from tests.http.fakes import body as chunk

IMAGE = b"\xff\xd8\xff\xe0 picture \x00\x01\r\n--boundary-of-another\r\n\xff\xd9"
FORM = "multipart/form-data; boundary=limit"


def part(disposition: str, data: bytes, *headers: str, newline: str = "\r\n") -> bytes:
    lines = [f"Content-Disposition: {disposition}", *headers]
    return newline.join([*lines, "", ""]).encode() + data


def form(parts: Sequence[bytes], boundary: str = "limit") -> bytes:
    """RFC 7578: each part after a delimiter line, the end marked by two more hyphens."""
    joined = b"".join(f"--{boundary}\r\n".encode() + one + b"\r\n" for one in parts)
    return joined + f"--{boundary}--\r\n".encode()


FILE = part('form-data; name="image"; filename="a.jpg"', IMAGE, "Content-Type: image/jpeg")


def read(data: bytes, content_type: str | None = FORM, query: str = "", **headers: str) -> Upload:
    """Read a request whose body comes in one piece."""
    return read_chunks([chunk(data)], content_type, query, 10**6, **headers)


def read_chunks(
    chunks: list[dict[str, Any]],
    content_type: str | None = FORM,
    query: str = "",
    max_bytes: int = 10**6,
    **headers: str,
) -> Upload:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if content_type is not None:
        named["content-type"] = content_type
    request = Request(scope_of("/classify", "POST", named, query), Connection(*chunks).receive)

    async def reading() -> Upload:
        with BodyBudget(max_bytes, 10**6).hold() as reserve:
            return await read_upload(request, reserve, max_bytes)

    return asyncio.run(reading())


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "IMAGE/PNG",
        "image/x.vnd-1",
        "binary/octet-stream",
        "image/png; charset=binary",
        "image/*",
    ],
)
def test_a_raw_body_is_the_image_whatever_kind_it_says(content_type: str | None) -> None:
    upload = read(IMAGE, content_type, "top_k=7", content_encoding="Identity")

    assert upload == Upload(image=IMAGE, top_k=7)


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/octet-streams",
        "x",
    ],
)
def test_another_kind_of_body_is_refused_with_the_kinds_that_are_read(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="send the image file as the body") as caught:
        read(IMAGE, content_type)

    assert repr(content_type) in str(caught.value)


@pytest.mark.parametrize(
    "disposition",
    [
        "form-data; name=image; filename=a.jpg",
        'form-data; filename="a.jpg"; name="image"',
        'form-data; name="image"; filename=""',
        'form-data; name="image"; filename="C:\\\\photos\\\\a.jpg"',
        'form-data; name="image"; filename="a \\"quoted\\" name; x=1.jpg"',
        'form-data; name="image"; filename="na\u00efve.jpg"',
        'form-data; name="image"; filename="a.jpg"; filename*=UTF-8\'\'na%C3%AFve.jpg',
        'FORM-DATA; NAME="image"; FILENAME="a.jpg"',
    ],
)
def test_every_way_to_write_a_file_name_makes_a_file(disposition: str) -> None:
    body = form([part(disposition, IMAGE)])

    assert read(body) == Upload(image=IMAGE, top_k=None)


def test_bytes_that_look_like_the_boundary_stay_in_the_file() -> None:
    data = (
        b"\r\n--limi\r\n--limi--\r\n-\r\n--\r\n\r\n--Limit--\r\n\r"
        + bytes(range(256)) * 300
        + b"\r\n"
    )

    body = form([part('form-data; name="image"; filename="a"', data)])

    assert read(body).image == data


def test_a_quoted_boundary_and_a_long_one_are_read() -> None:
    boundary = "=_" + "b" * 66 + "?:"  # 70 characters, the longest of RFC 2046

    body = form([FILE], boundary)

    assert read(body, f'multipart/form-data; boundary="{boundary}"').image == IMAGE


def test_line_feeds_before_the_first_delimiter_and_text_after_the_last_are_no_parts() -> None:
    assert read(b"\r\n" + form([FILE]) + b"epilogue\r\n").image == IMAGE


@pytest.mark.parametrize(
    ("query", "field"), [("top_k=4", b"4"), ("top_k=4", b"null"), ("top_k=null", b"4")]
)
def test_top_k_may_be_in_the_query_in_the_form_or_the_same_in_both(
    query: str, field: bytes
) -> None:
    data = form([FILE, part('form-data; name="top_k"', field)])

    assert read(data, query=query).top_k == 4


def test_two_different_numbers_in_query_and_form_are_refused() -> None:
    data = form([FILE, part('form-data; name="top_k"', b"5")])

    with pytest.raises(MalformedRequest, match="top_k is 2 in the query and 5 in the form"):
        read(data, query="top_k=2")


def test_parts_come_in_any_order_and_case() -> None:
    disposition = b'CONTENT-disposition: form-data; name="image"; filename="a"\r\n\r\n'

    body = form([part('form-data; name="top_k"', b" 12 "), disposition + IMAGE])

    assert read(body) == Upload(image=IMAGE, top_k=12)


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(
            part("form-data; name=\"image\"; filename*=UTF-8''a.jpg", IMAGE), id="filename*"
        ),
        pytest.param(
            part('form-data; name="image"', IMAGE, "Content-Type: image/jpeg"), id="image-type"
        ),
        pytest.param(
            part('form-data; name="image"', IMAGE, "content-type: application/octet-stream"),
            id="binary-type",
        ),
    ],
)
def test_a_part_is_a_file_by_any_of_its_signs(one: bytes) -> None:
    assert read(form([one])).image == IMAGE


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=utf-8", "application/json"])
def test_a_part_that_says_it_is_text_is_no_file(kind: str) -> None:
    with pytest.raises(MalformedRequest, match="`image` is text"):
        read(form([part('form-data; name="image"', IMAGE, f"Content-Type: {kind}")]))


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x"])
def test_a_compressed_body_is_refused_by_the_name_of_its_encoding(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="send the body as it is") as caught:
        read(IMAGE, "image/jpeg", content_encoding=encoding)

    assert repr(encoding) in str(caught.value)


@pytest.mark.parametrize("content_type", ["image/jpeg", FORM])
def test_a_body_in_pieces_is_put_together_in_order(content_type: str) -> None:
    data = IMAGE if content_type == "image/jpeg" else form([FILE])
    pieces = [chunk(data[start : start + 7], more=True) for start in range(0, len(data), 7)]

    assert read_chunks([*pieces, chunk(b"")], content_type).image == IMAGE


def test_a_body_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    pieces = [chunk(b"abc", more=True), chunk(b"de", more=True)]

    assert read_chunks([*pieces, chunk(b"")], None, max_bytes=5).image == b"abcde"
    with pytest.raises(BodyTooLarge, match="more than 5 bytes"):
        read_chunks([*pieces, chunk(b"f", more=True)], None, max_bytes=5)


def test_a_declared_size_beyond_the_limit_is_refused_unread_and_a_small_one_is_no_promise() -> None:
    with pytest.raises(BodyTooLarge, match="the body has 6 bytes, the limit is 5"):
        read_chunks([], None, max_bytes=5, content_length="6")
    with pytest.raises(BodyTooLarge, match="more than 5 bytes"):
        read_chunks([chunk(b"abcdef")], None, max_bytes=5, content_length="1")


def test_a_client_that_leaves_within_its_body_is_noticed() -> None:
    with pytest.raises(ClientDisconnect):
        read_chunks([chunk(b"abc", more=True), {"type": "http.disconnect"}], None)


def test_bodies_together_are_bounded_and_given_back() -> None:
    budget = BodyBudget(10, 10)
    with budget.hold() as reserve, budget.hold() as reserve_too:
        reserve(4)
        reserve_too(6)
        for full in (reserve, reserve_too):
            with pytest.raises(Overloaded):
                full(1)
        assert budget.held == 10
        with pytest.raises(Overloaded), budget.hold() as refused:
            refused(1)
        assert budget.held == 10

    assert budget.held == 0


def test_the_only_body_may_be_larger_than_the_memory_for_all() -> None:
    budget = BodyBudget(20, 10)
    with budget.hold() as reserve:
        reserve(6)
        reserve(6)
        with budget.hold() as reserve_too, pytest.raises(Overloaded):
            reserve_too(1)


TEXT = part('form-data; name="image"', b"http://example.org/a.png")
TOP_K = part('form-data; name="top_k"', b"3")


def test_a_malformed_form_writes_no_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(MalformedRequest):
        read(form([FILE], "other"))

    assert caplog.records == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(b"", "before its last boundary", id="empty"),
        pytest.param(form([]), "`image` is missing", id="no-part"),
        pytest.param(form([TOP_K]), "`image` is missing", id="no-image"),
        pytest.param(form([FILE, FILE]), "given 2 times", id="two-images"),
        pytest.param(form([TEXT]), "`image` is text", id="text"),
        pytest.param(form([FILE, TOP_K, TOP_K]), "top_k is given 2 times", id="two-top_k"),
        pytest.param(
            form([part('form-data; name="image"; filename="a"', b"")]), "is empty", id="no-bytes"
        ),
        pytest.param(
            form([FILE, part('form-data; name="x"', b"1")]), "unknown part 'x'", id="unknown"
        ),
        pytest.param(form([part("form-data", IMAGE)]), "not valid multipart", id="no-name"),
        pytest.param(
            form([b"Content-Type: image/png\r\n\r\n" + IMAGE]), "not valid multipart", id="bare"
        ),
        pytest.param(form([FILE])[:-4], "before its last boundary", id="cut-at-the-end"),
        pytest.param(form([FILE])[:60], "before its last boundary", id="cut-in-a-header"),
        pytest.param(form([FILE], "other"), "not valid multipart", id="other-boundary"),
        pytest.param(
            form([part('form-data; name="top_k"; filename="k"', b"3"), FILE]), "is a file", id="k"
        ),
        pytest.param(
            form([FILE, part('form-data; name="top_k"', b"1" * 2_000)]),
            "expected a number",
            id="long-k",
        ),
        pytest.param(form([FILE] * 129), "more than 128 parts", id="many-parts"),
    ],
)
def test_a_wrong_form_is_refused_with_what_is_wrong(body: bytes, said: str) -> None:
    with pytest.raises(MalformedRequest, match=said):
        read(body)


@pytest.mark.parametrize("cut", range(0, 200, 17))
def test_no_beginning_of_a_form_is_taken_for_the_whole(cut: int) -> None:
    whole = form([FILE, TOP_K])

    with pytest.raises(MalformedRequest):
        read(whole[: len(whole) - 5 - cut])


@pytest.mark.parametrize("text", ["3.5", "+1", "1e2", "\u0663", "\u00b2", "", "1" * 10])
def test_what_is_no_plain_number_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest, match="expected a number of 1 or more"):
        read(form([FILE, part('form-data; name="top_k"', text.encode())]))


@pytest.mark.parametrize("query", ["topk=3", "top_k=3&x="])
def test_an_unknown_query_parameter_is_refused(query: str) -> None:
    with pytest.raises(MalformedRequest, match="unknown query parameter"):
        read(IMAGE, None, query)
