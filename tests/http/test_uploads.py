"""Reading the image and `top_k` of a request, without a server."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.requests import Request

from image_classifier.errors import MalformedRequest, Overloaded
from image_classifier.http.uploads import BodyBudget, Upload, read_upload
from preprocessing.errors import FileTooLarge, UnsupportedImage
from tests.http.fakes import scope_of

IMAGE = b"\xff\xd8\xff\xe0 picture \x00\x01\r\n--boundary-of-another\r\n\xff\xd9"
FORM = "multipart/form-data; boundary=limit"


def part(disposition: str, data: bytes, *headers: str) -> bytes:
    return "\r\n".join([f"Content-Disposition: {disposition}", *headers, "", ""]).encode() + data


def form(parts: Sequence[bytes], boundary: str = "limit") -> bytes:
    """Return a form of RFC 7578."""
    joined = b"".join(f"--{boundary}\r\n".encode() + data + b"\r\n" for data in parts)
    return joined + f"--{boundary}--\r\n".encode()


def top_k(value: str) -> bytes:
    return part('form-data; name="top_k"', value.encode())


FILE = part('form-data; name="image"; filename="a.jpg"', IMAGE, "Content-Type: image/jpeg")


def read(
    *chunks: bytes,
    content_type: str | None = FORM,
    query: str = "",
    max_bytes: int = 10**6,
    **headers: str,
) -> Upload:
    """Read a request whose body arrives in chunks."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if content_type is not None:
        named["content-type"] = content_type
    messages = [{"type": "http.request", "body": data, "more_body": True} for data in chunks]
    messages.append({"type": "http.request"})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def reading() -> Upload:
        request = Request(scope_of("/classify", "POST", named, query), receive)
        with BodyBudget(max_bytes, 10**6).hold() as reserve:
            return await read_upload(request, reserve, max_bytes)

    return asyncio.run(reading())


def test_a_raw_body_of_any_image_type_is_the_image() -> None:
    kinds = ("", "IMAGE/PNG", "image/x.vnd-1", "binary/octet-stream", "image/png; charset=binary")
    for content_type in (None, "image/*", *kinds):
        upload = read(
            IMAGE, content_type=content_type, query="top_k=7", content_encoding="Identity"
        )

        assert upload == Upload(image=IMAGE, top_k=7), content_type


def test_other_content_types_and_encodings_are_refused_by_name() -> None:
    for content_type, encoding, message in [
        ("text/plain", "identity", "'text/plain' is not supported; send the image file as the"),
        ("application/octet-streams", "identity", "octet-streams' is not supported; send"),
        ("image/jpeg", "gzip", "'gzip' is not supported; send the body as it is"),
    ]:
        with pytest.raises(UnsupportedImage, match=message):
            read(IMAGE, content_type=content_type, content_encoding=encoding)


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
def test_a_part_with_a_filename_or_a_content_type_is_a_file(disposition: str) -> None:
    assert read(form([part(disposition, IMAGE)])) == Upload(image=IMAGE, top_k=None)


def test_bytes_that_look_like_the_boundary_stay_in_the_file() -> None:
    looks = b"\r\n--limi\r\n--limi--\r\n-\r\n--\r\n\r\n--Limit--\r\n\r"
    data = looks + bytes(range(256)) * 300 + b"\r\n"

    assert read(form([part('form-data; name="image"; filename="a"', data)])).image == data


def test_quoted_boundaries_epilogues_and_other_cases_are_read() -> None:
    boundary = "=_" + "b" * 66 + "?:"  # 70 characters, the longest of RFC 2046
    content_type = f'multipart/form-data; boundary="{boundary}"'
    quoted = read(form([FILE], boundary), content_type=content_type)
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
    with pytest.raises(MalformedRequest, match="top_k has several values; send it once"):
        read(form([FILE, top_k("5")]), query="top_k=2")


def test_a_body_in_chunks_is_joined_in_order() -> None:
    for content_type, data in (("image/jpeg", IMAGE), (FORM, form([FILE]))):
        chunks = [data[start : start + 7] for start in range(0, len(data), 7)]

        assert read(*chunks, content_type=content_type).image == IMAGE


def test_a_body_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    limit: dict[str, Any] = {"content_type": None, "max_bytes": 5}

    assert read(b"abc", b"de", **limit).image == b"abcde"
    with pytest.raises(FileTooLarge, match="more than 5 bytes"):
        read(b"abc", b"de", b"f", **limit)
    # A declared size is refused unread, and a small one is not trusted.
    with pytest.raises(FileTooLarge, match="the body has 6 bytes, the limit is 5"):
        read(content_length="6", **limit)
    with pytest.raises(FileTooLarge, match="more than 5 bytes"):
        read(b"abcdef", content_length="1", **limit)


def test_bodies_share_a_limit_that_a_single_one_may_exceed() -> None:
    budget = BodyBudget(20, 10)
    with budget.hold() as reserve, budget.hold() as reserve_too:
        reserve(4)
        reserve_too(6)
        for full in (reserve, reserve_too):
            with pytest.raises(Overloaded) as refused:
                full(1)
            assert refused.value.numbers.startswith("10 bytes are held, 10 are allowed (CLASS")
        assert budget.held == 10
    assert budget.held == 0

    with budget.hold() as reserve:
        reserve(6)
        reserve(6)
        with budget.hold() as reserve_too, pytest.raises(Overloaded):
            reserve_too(1)


NO_FILE = part('form-data; name="image"', b"http://example.org/a.png")
WRONG_FORMS = {
    "before its last boundary": [
        *(b"", form([FILE])[:-4], form([FILE])[:60]),
        form([FILE, top_k("3")])[:-20],
    ],
    "`image` is missing": [form([]), form([top_k("3")])],
    "given 2 times": [form([FILE, FILE])],
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
        form([FILE], boundary="other"),
        form([FILE] * 1_001),
    ],
    "is a file": [form([part('form-data; name="top_k"; filename="k"', b"3"), FILE])],
    "expected a whole number of 1 or more": [
        form([FILE, top_k(text)])
        for text in ("0", "3.5", "+1", "1e2", "\u0663", "\u00b2", " ", "1" * 10, "1" * 2_000)
    ],
}


@pytest.mark.parametrize("message", WRONG_FORMS)
def test_a_malformed_form_is_refused_with_the_reason(
    message: str, caplog: pytest.LogCaptureFixture
) -> None:
    for body in WRONG_FORMS[message]:
        with pytest.raises(MalformedRequest, match=message):
            read(body)
    assert caplog.records == []  # the parser logs nothing


def test_a_message_quotes_little_of_a_clients_text_and_in_one_line() -> None:
    with pytest.raises(MalformedRequest) as refused:
        read(IMAGE, content_type=None, query=f"%0Aforged{'x' * 99}=1")

    assert str(refused.value).startswith(r"unknown query parameter '\nforgedxxx")
    assert "x" * 58 not in str(refused.value)  # at most 64 characters
