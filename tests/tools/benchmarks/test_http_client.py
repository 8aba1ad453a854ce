"""Answers are cut out of the bytes however they arrive."""

import pytest

from benchmarks.http_client import AnswerReader, BrokenAnswer

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nhel\r\n2;name=value\r\nlo\r\n0\r\n\r\n"
)


@pytest.mark.parametrize(("data", "status"), [(PLAIN, 200), (CHUNKED, 503)])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_an_answer_is_whole_with_its_last_byte_and_not_before(
    data: bytes, status: int, piece: int
) -> None:
    reader = AnswerReader()
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)]

    answers = [reader.feed(each) for each in pieces]

    assert answers[:-1] == [None] * (len(pieces) - 1)
    assert answers[-1] == (status, b"hello")


@pytest.mark.parametrize("data", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_without_a_readable_head_is_broken(data: bytes) -> None:
    with pytest.raises(BrokenAnswer):
        AnswerReader().feed(data)
