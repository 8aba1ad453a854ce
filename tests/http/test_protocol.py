"""HTTP/1.1 framing under uvicorn: upgrades are ignored, refusals keep the connection usable."""

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
    """Split received bytes into statuses and bodies, by their content lengths."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status, length = re.search(rb"^HTTP/1.1 (\d+) (?s:.*)content-length: (\d+)", head).groups()  # type: ignore[union-attr]
        found.append((int(status), rest[: int(length)]))
        received = rest[int(length) :]
    return found


LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
SMUGGLING = upgrade(b"h2c", SMUGGLED)
CHUNKED = upgrade(b"h2c", b"5\r\nhello\r\n0\r\n\r\n", b"Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("packets", "bodies"),
    [
        pytest.param([SMUGGLING], [SMUGGLED], id="request-in-the-body"),
        pytest.param([SMUGGLING[:70], SMUGGLING[70:]], [SMUGGLED], id="head-in-two-packets"),
        pytest.param([SMUGGLING[:160], SMUGGLING[160:]], [SMUGGLED], id="body-in-two-packets"),
        pytest.param([upgrade(b"websocket", b"hello")], [b"hello"], id="websocket"),
        pytest.param([CHUNKED], [b"hello"], id="chunked"),
        pytest.param([upgrade(b"h2c", b"a") * 30], [b"a"] * 30, id="pipelined"),
    ],
)
def test_a_request_with_an_upgrade_keeps_its_body(
    packets: list[bytes], bodies: list[bytes]
) -> None:
    received = exchange(*packets[:-1], packets[-1] + LAST)

    expected = [(200, b"[POST /first] " + body) for body in bodies]
    assert answers(received) == [*expected, (200, b"[GET /last] ")]


def test_connect_is_refused() -> None:
    answer = exchange(b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n" + SMUGGLED)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"smuggled" not in answer


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse requests for /busy before the application is called."""

    def refuse(scope: Scope) -> Response | None:
        return Response("busy", 429) if scope["path"] == "/busy" else None

    monkeypatch.setattr(ClassifierProtocol, "refuse", refuse)


@pytest.mark.usefixtures("refusing")
def test_a_connection_stays_usable_after_an_early_refusal() -> None:
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
def test_a_refusal_is_delayed_and_its_body_is_not_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ClassifierProtocol, "refusal_delay_s", 0.3)
    size = 5_000_000
    busy = b"POST /busy HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size

    async def run() -> tuple[float, int, bytes]:
        """Return the seconds until the refusal, the stored bytes of the body, and later answers."""
        async with serving() as server:
            reader, writer = await asyncio.open_connection(*address_of(server))
            begun = time.perf_counter()
            writer.write(busy + bytes(size))
            await writer.drain()
            (connection,) = server.server_state.connections
            assert isinstance(connection, ClassifierProtocol)
            assert connection.cycle is not None
            stored = len(connection.cycle.body)
            await reader.readuntil(b"busy")
            seconds = time.perf_counter() - begun
            writer.write(LAST)
            rest = await reader.read()
            writer.close()
        return seconds, stored, rest

    seconds, stored, rest = asyncio.run(run())

    assert seconds >= 0.3
    assert stored == 0
    assert answers(rest) == [(200, b"[GET /last] ")]


@pytest.mark.usefixtures("refusing")
def test_thousands_of_pipelined_requests_are_refused_in_order() -> None:
    busy = b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n"

    received = exchange(upgrade(b"h2c", b"a") + busy * 3_000 + LAST)

    expected = [(200, b"[POST /first] a"), *[(429, b"busy")] * 3_000, (200, b"[GET /last] ")]
    assert answers(received) == expected


@pytest.mark.usefixtures("refusing")
def test_a_client_that_does_not_read_its_refusals_is_throttled() -> None:
    sent = b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n" * 200_000  # answers of 20 MB

    async def run() -> int:
        """Send without reading until the server stops reading; return its unsent bytes."""
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


def test_head_and_body_of_an_answer_are_sent_in_one_write() -> None:
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
def test_an_ambiguous_body_length_is_a_400_and_closes_the_connection(
    framing: bytes,
) -> None:
    body = b"0\r\n\r\n" + SMUGGLED if b"chunked" in framing else SMUGGLED
    head = b"POST /first HTTP/1.1\r\nHost: x\r\n" + framing.replace(b"%d", b"%d" % len(SMUGGLED))

    answer = exchange(head + b"\r\n\r\n" + body + LAST)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
