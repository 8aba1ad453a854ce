"""HTTP/1.1 framing under uvicorn: an `Upgrade` header changes nothing."""

import asyncio
import re
import socket
import time
from unittest.mock import Mock, call

import pytest
from starlette.responses import Response
from starlette.types import Scope

from image_classifier.http.protocol import ClassifierProtocol, JoinedWrites
from tests.http.echo_server import SMUGGLED, address_of, exchange, serving, upgrade


def answers(received: bytes) -> list[tuple[int, bytes]]:
    """Statuses and bodies of answers, each as long as its head says."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status, length = re.search(rb"^HTTP/1.1 (\d+) (?s:.*)content-length: (\d+)", head).groups()  # type: ignore[union-attr]
        found.append((int(status), rest[: int(length)]))
        received = rest[int(length) :]
    return found


def bodies(received: bytes) -> list[bytes]:
    """Bodies of answers that are all 200."""
    found = answers(received)
    assert {status for status, _ in found} == {200}
    return [body for _, body in found]


LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("value", "data"), [(b"h2c", SMUGGLED), (b"websocket", b"hello"), (b"foo/2, h2c", b"")]
)
def test_the_body_of_a_request_with_an_upgrade_is_its_body(value: bytes, data: bytes) -> None:
    answer = exchange(upgrade(value, data) + LAST)

    assert bodies(answer) == [b"[POST /first] " + data, b"[GET /last] "]


def test_a_chunked_body_with_an_upgrade_is_read() -> None:
    data = b"5\r\nhello\r\n0\r\n\r\n"

    answer = exchange(upgrade(b"h2c", data, b"Transfer-Encoding: chunked") + LAST)

    assert bodies(answer) == [b"[POST /first] hello", b"[GET /last] "]


@pytest.mark.parametrize("cut", (70, 160))
def test_the_packets_a_request_comes_in_do_not_matter(cut: int) -> None:
    sent = upgrade(b"h2c", SMUGGLED) + LAST

    answer = exchange(sent[:cut], sent[cut:])

    assert bodies(answer) == [b"[POST /first] " + SMUGGLED, b"[GET /last] "]


def test_many_pipelined_upgrades_are_answered_in_order() -> None:
    answer = exchange(upgrade(b"h2c", b"a") * 30 + LAST)

    assert bodies(answer) == [b"[POST /first] a"] * 30 + [b"[GET /last] "]


def test_connect_is_refused() -> None:
    answer = exchange(b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n" + SMUGGLED)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"smuggled" not in answer


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have requests for /busy refused before the application is called."""

    def refuse(scope: Scope) -> Response | None:
        return Response("busy", 429) if scope["path"] == "/busy" else None

    monkeypatch.setattr(ClassifierProtocol, "refuse", refuse)


@pytest.mark.usefixtures("refusing")
def test_a_connection_goes_on_after_a_request_that_was_refused_before_its_body() -> None:
    busy = b"POST /busy HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
    first = upgrade(b"h2c", b"hello")

    in_turn = exchange(busy, SMUGGLED[:9], SMUGGLED[9:] + first, busy + SMUGGLED + LAST)
    pipelined = exchange(first + busy + SMUGGLED + busy + SMUGGLED + LAST)
    last = exchange(busy.replace(b"Host: x", b"Connection: close") + SMUGGLED + LAST)

    refused, answered = (429, b"busy"), (200, b"[POST /first] hello")
    end = (200, b"[GET /last] ")
    assert answers(in_turn) == [refused, answered, refused, end]
    assert answers(pipelined) == [answered, refused, refused, end]
    assert answers(last) == [refused]
    assert b"\r\nconnection: close\r\n" in last


@pytest.mark.usefixtures("refusing")
def test_a_refusal_is_sent_after_its_delay_and_the_body_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ClassifierProtocol, "refusal_delay_s", 0.3)
    size = 5_000_000
    busy = b"POST /busy HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size

    async def run() -> tuple[float, int, bytes]:
        """Return when the refusal came, the bytes kept of its body, and what came after it."""
        async with serving() as server:
            reader, writer = await asyncio.open_connection(*address_of(server))
            begun = time.perf_counter()
            writer.write(busy + bytes(size))
            await writer.drain()
            (connection,) = server.server_state.connections
            assert isinstance(connection, ClassifierProtocol)
            assert connection.cycle is not None
            kept = len(connection.cycle.body)
            await reader.readuntil(b"busy")
            seconds = time.perf_counter() - begun
            writer.write(LAST)
            rest = await reader.read()
            writer.close()
        return seconds, kept, rest

    seconds, kept, rest = asyncio.run(run())

    assert seconds >= 0.3
    assert kept == 0
    assert answers(rest) == [(200, b"[GET /last] ")]


@pytest.mark.usefixtures("refusing")
def test_any_number_of_pipelined_requests_is_refused_in_order() -> None:
    busy = b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n"

    received = exchange(upgrade(b"h2c", b"a") + busy * 3_000 + LAST)

    expected = [(200, b"[POST /first] a"), *[(429, b"busy")] * 3_000, (200, b"[GET /last] ")]
    assert answers(received) == expected


@pytest.mark.usefixtures("refusing")
def test_a_client_that_does_not_read_its_refusals_is_not_read_either() -> None:
    sent = b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n" * 200_000  # answers of 20 MB

    async def run() -> int:
        """Send without reading until nothing moves; return the bytes the server has not sent."""
        async with serving() as server:
            client = socket.create_connection(address_of(server))
            client.setblocking(False)
            left, idle = memoryview(sent), 0
            while left and idle < 100:
                try:
                    left, idle = left[client.send(left) :], 0
                except BlockingIOError:
                    idle += 1
                await asyncio.sleep(0.002)
            (connection,) = server.server_state.connections
            unsent = connection.transport.get_write_buffer_size()
            client.close()
        return unsent

    assert asyncio.run(run()) < 1_000_000


def test_head_and_body_of_an_answer_leave_in_one_write() -> None:
    transport = Mock()

    async def answer_twice() -> None:
        writes = JoinedWrites(transport, asyncio.get_running_loop())
        writes.write(b"head ")
        writes.write(b"body")
        await asyncio.sleep(0)
        writes.write(b"last")
        writes.close()
        await asyncio.sleep(0)

    asyncio.run(answer_twice())

    assert transport.mock_calls == [call.write(b"head body"), call.write(b"last"), call.close()]


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Content-Length: 0\r\nContent-Length: %d",
        b"Content-Length: +0",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding : chunked",
        b"X: y\r\n Transfer-Encoding: chunked",
    ],
)
def test_a_body_whose_length_a_proxy_may_read_otherwise_ends_the_connection(
    framing: bytes,
) -> None:
    body = b"0\r\n\r\n" + SMUGGLED if b"chunked" in framing else SMUGGLED
    head = b"POST /first HTTP/1.1\r\nHost: x\r\n" + framing.replace(b"%d", b"%d" % len(SMUGGLED))

    answer = exchange(head + b"\r\n\r\n" + body + LAST)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
