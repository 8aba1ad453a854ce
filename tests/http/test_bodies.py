"""Reading a body within its limit, and all bodies within theirs, without a server."""

import asyncio
from typing import Any

import pytest
from image_classifier.http.bodies import BodyMemory, read_body
from image_classifier.http.messages import ClientGone

from image_classifier.errors import BodyTooLarge, Overloaded


def body_of(messages: list[dict[str, Any]], max_bytes: int, *headers: tuple[bytes, bytes]) -> bytes:
    """Read from a connection that says `messages` and then fails the test."""
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(waiting)

    given = {"type": "http", "headers": list(headers)}
    with BodyMemory(1_000).hold() as take:
        return asyncio.run(read_body(given, receive, max_bytes, take))


def chunk(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


def test_a_body_in_pieces_is_put_together_in_order() -> None:
    pieces = [chunk(b"ab"), chunk(b""), chunk(b"cd"), chunk(b"e", more=False)]

    assert body_of(pieces, 5) == b"abcde"


def test_a_message_without_body_is_an_empty_body() -> None:
    assert body_of([{"type": "http.request"}], 5) == b""


def test_a_body_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    assert body_of([chunk(b"abc"), chunk(b"de", more=False)], 5) == b"abcde"
    with pytest.raises(BodyTooLarge, match="more than 5 bytes"):
        body_of([chunk(b"abc"), chunk(b"def", more=True)], 5)


def test_a_declared_size_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(BodyTooLarge, match="the body has 6 bytes, the limit is 5"):
        body_of([], 5, (b"content-length", b"6"))


def test_a_declared_size_is_no_promise() -> None:
    with pytest.raises(BodyTooLarge, match="more than 5 bytes"):
        body_of([chunk(b"abcdef", more=False)], 5, (b"content-length", b"1"))


def test_a_client_that_leaves_within_its_body_is_gone() -> None:
    with pytest.raises(ClientGone):
        body_of([chunk(b"abc"), {"type": "http.disconnect"}], 5)


def test_bodies_together_are_bounded_and_given_back() -> None:
    memory = BodyMemory(10)
    with memory.hold() as take, memory.hold() as take_too:
        take(4)
        take_too(6)
        for full in (take, take_too):
            with pytest.raises(Overloaded):
                full(1)
        assert memory.held == 10

    assert memory.held == 0


def test_a_body_that_is_alone_may_be_larger_than_the_memory_for_all() -> None:
    memory = BodyMemory(10)
    with memory.hold() as take:
        take(6)
        take(6)
        with memory.hold() as take_too, pytest.raises(Overloaded):
            take_too(1)


def test_a_refused_body_gives_back_what_it_held() -> None:
    memory = BodyMemory(10)
    with memory.hold() as take:
        take(6)
        with pytest.raises(Overloaded), memory.hold() as take_too:
            take_too(4)
            take_too(1)
        assert memory.held == 6


def test_a_part_is_counted_before_it_is_kept() -> None:
    taken: list[int] = []
    waiting = iter([chunk(b"abc"), chunk(b"de", more=False)])

    async def receive() -> dict[str, Any]:
        return next(waiting)

    asyncio.run(read_body({"type": "http", "headers": []}, receive, 5, taken.append))

    assert taken == [3, 2]
