"""Reading the image and top_k of a request, without a server."""

from collections.abc import Sequence
from typing import Any

import pytest

from image_classifier.errors import MalformedRequest, UnsupportedMediaType
from image_classifier.http.uploads import Upload, form_parts, upload_from

IMAGE = b"\xff\xd8\xff\xe0 picture \x00\x01\r\n--boundary-of-another\r\n\xff\xd9"
FORM = "multipart/form-data; boundary=limit"


def scope(content_type: str | None = None, query: str = "") -> dict[str, Any]:
    headers = [] if content_type is None else [(b"content-type", content_type.encode("latin-1"))]
    return {"type": "http", "headers": headers, "query_string": query.encode()}


def part(disposition: str, data: bytes, *headers: str, newline: str = "\r\n") -> bytes:
    lines = [f"Content-Disposition: {disposition}", *headers]
    return newline.join([*lines, "", ""]).encode() + data


def form(parts: Sequence[bytes], boundary: str = "limit") -> bytes:
    """RFC 7578: each part after a delimiter line, the end marked by two more hyphens."""
    joined = b"".join(f"--{boundary}\r\n".encode() + one + b"\r\n" for one in parts)
    return joined + f"--{boundary}--\r\n".encode()


FILE = part('form-data; name="image"; filename="a.jpg"', IMAGE, "Content-Type: image/jpeg")


def read(body: bytes, content_type: str | None = FORM, query: str = "") -> Upload:
    return upload_from(scope(content_type, query), body)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "image/jpeg",
        "IMAGE/PNG",
        "image/svg+xml",
        "image/x.vnd-1",
        "application/octet-stream",
        "binary/octet-stream",
        "image/png; charset=binary",
    ],
)
def test_a_raw_body_is_the_image_whatever_kind_it_says(content_type: str | None) -> None:
    assert read(IMAGE, content_type, "top_k=7") == Upload(image=IMAGE, top_k=7)


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/json",
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
        'form-data; name="image"; filename="a.jpg"',
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


@pytest.mark.parametrize(
    "name", ["content-disposition", "CONTENT-DISPOSITION", "Content-disposition"]
)
def test_the_case_of_a_header_does_not_matter(name: str) -> None:
    one = f'{name}: form-data; name="image"; filename="a"\r\n\r\n'.encode() + IMAGE

    assert read(form([one])).image == IMAGE


def test_bytes_that_look_like_the_boundary_stay_in_the_file() -> None:
    data = (
        b"\r\n--limi\r\n--limi--\r\n-\r\n--\r\n\r\n--Limit--\r\n\r"
        + bytes(range(256)) * 300
        + b"\r\n"
    )

    body = form([part('form-data; name="image"; filename="a"', data)])

    assert read(body).image == data


@pytest.mark.parametrize("position", range(0, 40, 7))
def test_a_file_may_hold_nearly_the_delimiter_at_any_place(position: int) -> None:
    data = b"x" * position + b"\r\n--limi" + b"\r\n--limitless"[:9] + b"tail"

    assert read(form([part('form-data; name="image"; filename="a"', data)])).image == data


def test_a_quoted_boundary_and_a_long_one_are_read() -> None:
    boundary = "=_" + "b" * 66 + "?:"  # 70 characters, the longest of RFC 2046

    body = form([FILE], boundary)

    assert read(body, f'multipart/form-data; boundary="{boundary}"').image == IMAGE


def test_line_feeds_before_the_first_delimiter_are_skipped() -> None:
    assert read(b"\r\n" + form([FILE])).image == IMAGE


def test_what_follows_the_last_delimiter_is_no_part() -> None:
    assert read(form([FILE]) + b"epilogue\r\n").image == IMAGE


def test_a_number_in_the_form_goes_before_one_in_the_query() -> None:
    body = form([FILE, part('form-data; name="top_k"', b"4")])

    assert read(body, query="top_k=2").top_k == 4


def test_parts_come_in_any_order() -> None:
    body = form([part('form-data; name="top_k"', b" 12 "), FILE])

    assert read(body) == Upload(image=IMAGE, top_k=12)


def test_parts_are_kept_apart_in_their_order() -> None:
    body = form([part(f'form-data; name="n{i}"; filename="f{i}"', b"%d" % i) for i in range(5)])

    parts = form_parts(FORM, body)

    assert [(one.name, one.filename, one.data) for one in parts] == [
        (f"n{i}", f"f{i}", b"%d" % i) for i in range(5)
    ]


def test_the_extended_file_name_alone_makes_no_file() -> None:
    # RFC 7578, section 4.2: `filename*` must not be used in a form.
    body = form([part("form-data; name=\"image\"; filename*=UTF-8''a.jpg", IMAGE)])

    with pytest.raises(MalformedRequest, match="`image` is text"):
        read(body)


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
        pytest.param(form([part("form-data", IMAGE)]), "unknown part ''", id="no-name"),
        pytest.param(form([b"Content-Type: image/png\r\n\r\n" + IMAGE]), "unknown part", id="bare"),
        pytest.param(form([FILE])[:-4], "before its last boundary", id="cut-at-the-end"),
        pytest.param(form([FILE])[:60], "before its last boundary", id="cut-in-a-header"),
        pytest.param(form([FILE], "other"), "not valid multipart", id="other-boundary"),
        pytest.param(
            form([part('form-data; name="top_k"; filename="k"', b"3"), FILE]), "is a file", id="k"
        ),
        pytest.param(
            form([FILE, part('form-data; name="top_k"', b"1" * 2_000)]), "is a file", id="long-k"
        ),
        pytest.param(form([FILE] * 129), "more than 128 parts", id="many-parts"),
    ],
)
def test_a_wrong_form_is_refused_with_what_is_wrong(body: bytes, said: str) -> None:
    with pytest.raises(MalformedRequest, match=said):
        read(body)


@pytest.mark.parametrize("cut", range(0, 200, 3))
def test_no_beginning_of_a_form_is_taken_for_the_whole(cut: int) -> None:
    whole = form([FILE, TOP_K])

    with pytest.raises(MalformedRequest):
        read(whole[: len(whole) - 5 - cut])


@pytest.mark.parametrize(
    "text", ["0x3", "3.5", "-1", "+1", "1e2", "\u0663", "\u00b2", "", " ", "1" * 10]
)
def test_what_is_no_plain_number_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest, match="expected a number of 1 or more"):
        read(form([FILE, part('form-data; name="top_k"', text.encode())]))


def test_an_empty_number_in_the_form_does_not_fall_back_to_the_query() -> None:
    with pytest.raises(MalformedRequest, match="expected a number of 1 or more"):
        read(form([FILE, part('form-data; name="top_k"', b"")]), query="top_k=3")


def test_a_long_name_is_cut_in_the_message() -> None:
    with pytest.raises(MalformedRequest) as caught:
        read(form([FILE, part(f'form-data; name="{"n" * 500}"', b"1")]))

    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("query", ["topk=3", "top_k=3&x=", "%74op_q=1"])
def test_an_unknown_query_parameter_is_refused(query: str) -> None:
    with pytest.raises(MalformedRequest, match="unknown query parameter"):
        read(IMAGE, None, query)
