"""Reading the image and top_k of a request, without a server."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.requests import Request

from image_classifier.errors import MalformedRequest, Overloaded
from image_classifier.http.uploads import BodyBudget, Upload, read_upload
from preprocessing.errors import FileTooLarge, UnsupportedImage
from tests.http.fakes import Connection, scope_of
from tests.http.fakes import body as chunk

IMAGE = b"\xff\xd8\xff\xe0 picture \x00\x01\r\n--boundary-of-another\r\n\xff\xd9"
FORM = "multipart/form-data; boundary=limit"


def part(disposition: str, data: bytes, *headers: str) -> bytes:
    return "\r\n".join([f"Content-Disposition: {disposition}", *headers, "", ""]).encode() + data


def form(parts: Sequence[bytes], boundary: str = "limit") -> bytes:
    """RFC 7578: each part after a delimiter line, the end marked by two more hyphens."""
    joined = b"".join(f"--{boundary}\r\n".encode() + one + b"\r\n" for one in parts)
    return joined + f"--{boundary}--\r\n".encode()


def top_k(value: str) -> bytes:
    return part('form-data; name="top_k"', value.encode())


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


def test_a_raw_body_is_the_image_whatever_kind_it_says() -> None:
    kinds = ("", "IMAGE/PNG", "image/x.vnd-1", "binary/octet-stream", "image/png; charset=binary")
    for content_type in (None, "image/*", *kinds):
        upload = read(IMAGE, content_type, "top_k=7", content_encoding="Identity")

        assert upload == Upload(image=IMAGE, top_k=7), content_type


@pytest.mark.parametrize(
    ("content_type", "encoding", "said"),
    [
        ("text/plain", "identity", "'text/plain' is not supported; send the image file as the"),
        ("application/octet-streams", "identity", "octet-streams' is not supported; send"),
        ("image/jpeg", "gzip", "'gzip' is not supported; send the body as it is"),
    ],
)
def test_another_kind_or_encoding_is_refused_by_its_name(
    content_type: str, encoding: str, said: str
) -> None:
    with pytest.raises(UnsupportedImage, match=said):
        read(IMAGE, content_type, content_encoding=encoding)


@pytest.mark.parametrize(
    "disposition",
    [
        "form-data; name=image; filename=a.jpg",
        'form-data; name="image"; filename=""',
        'form-data; name="image"; filename="a.jpg"; filename*=UTF-8\'\'na%C3%AFve.jpg',
        "form-data; name=\"image\"; filename*=UTF-8''a.jpg",
        'FORM-DATA; NAME="image"; FILENAME="a.jpg"',
        'form-data; name="image"\r\nContent-Type: image/jpeg',
        'form-data; name="image"\r\ncontent-type: application/octet-stream',
    ],
)
def test_a_part_is_a_file_by_any_of_its_signs(disposition: str) -> None:
    assert read(form([part(disposition, IMAGE)])) == Upload(image=IMAGE, top_k=None)


def test_bytes_that_look_like_the_boundary_stay_in_the_file() -> None:
    looks = b"\r\n--limi\r\n--limi--\r\n-\r\n--\r\n\r\n--Limit--\r\n\r"
    data = looks + bytes(range(256)) * 300 + b"\r\n"

    assert read(form([part('form-data; name="image"; filename="a"', data)])).image == data


def test_every_form_of_the_standard_is_read() -> None:
    boundary = "=_" + "b" * 66 + "?:"  # 70 characters, the longest of RFC 2046
    quoted = read(form([FILE], boundary), f'multipart/form-data; boundary="{boundary}"')
    surrounded = read(b"\r\n" + form([FILE]) + b"epilogue\r\n")
    another_case = b'CONTENT-disposition: form-data; name="image"; filename="a"\r\n\r\n' + IMAGE
    another_order = read(form([top_k(" 12 "), another_case]))

    assert quoted.image == surrounded.image == IMAGE
    assert another_order == Upload(image=IMAGE, top_k=12)


def test_top_k_may_be_in_the_query_in_the_form_or_the_same_in_both() -> None:
    for query, field in [("top_k=4", "4"), ("top_k=4", "null"), ("top_k=null", "4"), ("", "4")]:
        assert read(form([FILE, top_k(field)]), query=query).top_k == 4
    for query, field in [("top_k=4", ""), ("top_k=", "4")]:
        assert read(form([FILE, top_k(field)]), query=query).top_k == 4
    for nothing in ("", "null"):
        assert read(form([FILE, top_k(nothing)]), query=f"top_k={nothing}").top_k is None
    with pytest.raises(MalformedRequest, match="top_k is 2 in the query and 5 in the form"):
        read(form([FILE, top_k("5")]), query="top_k=2")


@pytest.mark.parametrize("content_type", ["image/jpeg", FORM])
def test_a_body_in_pieces_is_put_together_in_order(content_type: str) -> None:
    data = IMAGE if content_type == "image/jpeg" else form([FILE])
    pieces = [chunk(data[start : start + 7], more=True) for start in range(0, len(data), 7)]

    assert read_chunks([*pieces, chunk(b"")], content_type).image == IMAGE


def test_a_body_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    pieces = [chunk(b"abc", more=True), chunk(b"de", more=True)]

    assert read_chunks([*pieces, chunk(b"")], None, max_bytes=5).image == b"abcde"
    with pytest.raises(FileTooLarge, match="more than 5 bytes"):
        read_chunks([*pieces, chunk(b"f", more=True)], None, max_bytes=5)
    # A declared size is refused unread, and a small one is no promise.
    with pytest.raises(FileTooLarge, match="the body has 6 bytes, the limit is 5"):
        read_chunks([], None, max_bytes=5, content_length="6")
    with pytest.raises(FileTooLarge, match="more than 5 bytes"):
        read_chunks([chunk(b"abcdef")], None, max_bytes=5, content_length="1")


def test_bodies_together_are_bounded_and_given_back_but_the_only_one_may_be_larger() -> None:
    budget = BodyBudget(20, 10)
    with budget.hold() as reserve, budget.hold() as reserve_too:
        reserve(4)
        reserve_too(6)
        for full in (reserve, reserve_too):
            with pytest.raises(Overloaded):
                full(1)
        assert budget.held == 10
    assert budget.held == 0

    with budget.hold() as reserve:
        reserve(6)
        reserve(6)
        with budget.hold() as reserve_too, pytest.raises(Overloaded):
            reserve_too(1)


NO_FILE = part('form-data; name="image"', b"http://example.org/a.png")
WRONG_FORMS = {
    "before its last boundary": [b"", form([FILE])[:-4], form([FILE])[:60]],
    "`image` is missing": [form([]), form([top_k("3")])],
    "given 2 times": [form([FILE, FILE]), form([FILE, top_k("3"), top_k("3")])],
    "`image` is text": [
        form([NO_FILE]),
        form([part('form-data; name="image"', IMAGE, "Content-Type: text/plain; charset=utf-8")]),
        form([part('form-data; name="image"', IMAGE, "Content-Type: application/json")]),
    ],
    "is empty": [form([part('form-data; name="image"; filename="a"', b"")])],
    "unknown part 'x'": [form([FILE, part('form-data; name="x"', b"1")])],
    "not valid multipart": [
        form([part("form-data", IMAGE)]),
        form([b"Content-Type: image/png\r\n\r\n" + IMAGE]),
        form([FILE], "other"),
    ],
    "is a file": [form([part('form-data; name="top_k"; filename="k"', b"3"), FILE])],
    "more than 128 parts": [form([FILE] * 129)],
    "expected a number of 1 or more": [
        form([FILE, top_k(text)])
        for text in ("3.5", "+1", "1e2", "\u0663", "\u00b2", " ", "1" * 10, "1" * 2_000)
    ],
}


@pytest.mark.parametrize("said", WRONG_FORMS)
def test_a_wrong_form_is_refused_with_what_is_wrong(
    said: str, caplog: pytest.LogCaptureFixture
) -> None:
    for body in WRONG_FORMS[said]:
        with pytest.raises(MalformedRequest, match=said):
            read(body)
    assert caplog.records == []  # nor does the parser write a line for each


def test_an_unknown_query_parameter_is_refused() -> None:
    for query in ("topk=3", "top_k=3&x="):
        with pytest.raises(MalformedRequest, match="unknown query parameter"):
            read(IMAGE, None, query)
