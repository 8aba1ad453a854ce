"""HTTP/1.1 framing under uvicorn: upgrades are ignored, refusals keep the connection usable.

Requests that cannot be read, are too large or too slow are answered, and their connection closed.
"""

import asyncio
import json
import re
import socket
import time
from unittest.mock import Mock, call

import pytest
from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import Scope

from image_classifier.http import protocol
from image_classifier.http.protocol import ClassifierProtocol, JoinedWrites
from image_classifier.logs import ErrorLog
from tests.http.echo_server import SMUGGLED, address_of, exchange, serving, upgrade
from tests.http.fakes import StubClassifier, app_of, outcomes


@pytest.fixture(autouse=True)
def app(monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """The application that answers requests which cannot be read."""
    app = app_of(StubClassifier())
    monkeypatch.setattr(ClassifierProtocol, "reject", app.state.reject)
    monkeypatch.setattr("image_classifier.http.app.error_log", ErrorLog())
    return app


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


def errors(received: bytes) -> list[tuple[int, str]]:
    """Split received bytes into statuses and error codes; "" for other answers."""
    return [
        (status, json.loads(body)["error"]["code"] if body.startswith(b"{") else "")
        for status, body in answers(received)
    ]


MALFORMED = (400, "malformed_request")
TOO_LARGE = (431, "headers_too_large")


def test_connect_is_refused() -> None:
    answer = exchange(b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n" + SMUGGLED)

    assert errors(answer) == [MALFORMED]
    assert b"smuggled" not in answer


def test_malformed_requests_have_the_answer_of_all_errors_and_are_logged_once(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    for request in (b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01 TLS", b"G=T / HTTP/1.1\r\n\r\n"):
        answer = exchange(request)

        (body,) = (json.loads(body) for _, body in answers(answer))
        assert errors(answer) == [MALFORMED]
        assert b"\r\nx-request-id: %s\r\n" % body["error"]["request_id"].encode() in answer
        assert b"\r\nconnection: close\r\n" in answer
    assert outcomes(app)["malformed_request"] == 3
    (line,) = caplog.messages
    assert "400 malformed_request: the request is not valid HTTP/1.1" in line


@pytest.mark.parametrize("hosts", [b"", b"Host: x\r\nHost: y\r\n"])
def test_a_request_of_http_1_1_names_one_host(hosts: bytes) -> None:
    assert errors(exchange(LAST.replace(b"Host: x\r\n", hosts))) == [MALFORMED]
    assert errors(exchange(LAST.replace(b"Host: x\r\n", b"").replace(b"1.1", b"1.0"))) == [
        (200, "")
    ]


CHUNKS = b"POST /%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


@pytest.mark.usefixtures("refusing")
def test_each_request_gets_one_answer_even_if_the_next_or_its_body_is_malformed() -> None:
    pipelined = exchange(upgrade(b"h2c", b"hello") + b"bad\r\n\r\n", b"more")
    pipelined_body = exchange(
        upgrade(b"h2c", b"hello") + BUSY + b"finished!" + CHUNKS % b"last" + b"no size\r\n", b"more"
    )
    broken_body = exchange(CHUNKS % b"first", b"no size\r\n")
    answered_before = exchange(CHUNKS % b"busy", b"no size\r\n")

    assert answers(pipelined) == [(200, b"[POST /first] hello")]
    assert errors(pipelined_body) == [(200, ""), (429, ""), MALFORMED]
    assert errors(broken_body) == [MALFORMED]
    assert answers(answered_before) == [(429, b"busy")]


def head(size: int) -> bytes:
    """Return a request whose head, without `HTTP/1.1` and the like, has this many bytes."""
    value = b"v" * (size - len(b"/last") - len(b"Host: x\r\nConnection: close\r\nX: \r\n"))
    return LAST[:-2] + b"X: " + value + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("packets", "expected"),
    [
        pytest.param([head(65_536)], (200, ""), id="largest"),
        pytest.param([head(65_537)], TOO_LARGE, id="too-large"),
        pytest.param(
            [b"GET /last HTTP/1.1\r\nX: ", *[b"v" * 6_000] * 11], TOO_LARGE, id="endless-value"
        ),
        pytest.param(
            [b"GET /last HTTP/1.1\r\n", *[b"X: y\r\n" * 1_000] * 11],
            TOO_LARGE,
            id="endless-headers",
        ),
        pytest.param(
            [CHUNKS % b"first" + b"0\r\nX: ", *[b"v" * 6_000] * 11], TOO_LARGE, id="endless-trailer"
        ),
        pytest.param(
            [b"POST /first HTTP/1.1\r\nHost: x\r\nContent-Length: 130000\r\n\r\n"]
            + [b"v" * 13_000] * 10
            + [LAST[:20], LAST[20:]],
            (200, ""),
            id="large-body",
        ),
    ],
)
def test_a_head_has_at_most_64_kib(packets: list[bytes], expected: tuple[int, str]) -> None:
    assert errors(exchange(*packets))[-1] == expected


FIRST = upgrade(b"h2c", b"hello")
BUSY = b"POST /busy HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    ("packets", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([b"\r\n"], [], id="blank-line"),
        pytest.param([FIRST, b"\r\n"], [(200, "")], id="blank-line-after-an-answer"),
        pytest.param([BUSY, b"unfinish"], [(429, "")], id="body-of-an-answered-request"),
        pytest.param([BUSY, b"finished!"], [(429, "")], id="after-a-body-that-was-dropped"),
    ],
)
def test_a_connection_without_a_request_in_progress_is_closed_silently(
    packets: list[bytes], expected: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClassifierProtocol, "keep_alive_s", 0.1)

    assert errors(exchange(*packets)) == expected


@pytest.mark.parametrize(
    ("packets", "expected"),
    [
        pytest.param([LAST[:7]], [], id="request-line"),
        pytest.param([LAST[:30]], [], id="header"),
        pytest.param([FIRST, LAST[:30]], [(200, "")], id="second-head"),
    ],
)
def test_an_unfinished_head_is_answered_408(
    packets: list[bytes], expected: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)
    monkeypatch.setattr(ClassifierProtocol, "keep_alive_s", 6_000)

    assert errors(exchange(*packets)) == [*expected, (408, "body_too_slow")]


def test_single_bytes_do_not_prolong_the_time_of_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)

    async def run() -> bytes:
        """Send a byte every 5 ms until an answer arrives."""
        async with serving() as server:
            client = socket.create_connection(address_of(server))
            client.setblocking(False)
            answer = asyncio.create_task(asyncio.get_running_loop().sock_recv(client, 4_096))
            client.send(b"GET /")
            while not (await asyncio.wait([answer], timeout=0.005))[0]:
                client.send(b"x")
            client.close()
        return answer.result()

    assert errors(asyncio.run(run())) == [(408, "body_too_slow")]


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
    last = exchange(busy.replace(b"Content", b"Connection: close\r\nContent") + SMUGGLED + LAST)

    refused, answered = (429, b"busy"), (200, b"[POST /first] hello")
    end = (200, b"[GET /last] ")
    assert answers(in_turn) == [refused, answered, refused, end]
    assert answers(pipelined) == [answered, refused, refused, end]
    assert answers(last) == [refused]
    assert b"\r\nconnection: close\r\n" in last


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    ("version", "path", "expected"),
    [
        ("1.0", "busy", (429, b"busy")),
        ("1.1", "busy", (429, b"busy")),
        ("1.1", "app", (413, b"no")),
    ],
)
def test_an_answer_sent_before_the_body_is_read_arrives_before_the_connection_is_closed(
    version: str, path: str, expected: tuple[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LINGER_S", 0.3)
    size = 5_000_000
    head = (
        f"POST /{path} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Length: {size}\r\n\r\n"
    )

    async def run() -> tuple[bytes, int]:
        """Send the body, then read; return the answer and the connections some time later."""
        async with serving(app=Response("no", 413)) as server:
            client = socket.create_connection(address_of(server))
            await asyncio.to_thread(client.sendall, head.encode() + bytes(size - 1))
            answer = await asyncio.to_thread(client.makefile("rb").read)
            await asyncio.sleep(0.5)
            client.close()
            return answer, len(server.server_state.connections)

    answer, connections = asyncio.run(run())

    assert answers(answer) == [expected]
    assert connections == 0


def test_a_bug_in_refusing_leaves_the_request_to_the_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ClassifierProtocol, "refuse", lambda scope: scope["bug"])

    assert answers(exchange(LAST)) == [(200, b"[GET /last] ")]


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


def test_a_client_that_does_not_read_its_answers_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "WRITE_TIMEOUT_S", 0.1)
    requests = upgrade(b"h2c", bytes(60_000)) * 800  # whose bodies are sent back

    async def run() -> int:
        """Send without reading until the server closes; return the number of connections."""
        async with serving() as server:
            client = socket.create_connection(address_of(server))
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(loop.sock_sendall(client, requests), 20)
            client.close()
            return len(server.server_state.connections)

    assert asyncio.run(run()) == 0


def test_connections_of_a_stopping_server_end_with_the_next_answer() -> None:
    async def run() -> list[bytes]:
        """Send a request on a connection that waits for its first one, and on another one."""
        async with serving() as server:
            clients = [await asyncio.open_connection(*address_of(server)) for _ in range(2)]
            clients[1][1].write(FIRST)
            await clients[1][0].readuntil(b"hello")  # after the first client's was accepted
            server.servers[0].close()
            for connection in server.server_state.connections:
                assert isinstance(connection, ClassifierProtocol)
                if connection.cycle is None:
                    connection.shutdown()
            for _, writer in clients:
                writer.write(LAST.replace(b"Connection: close", b"X: y"))
            received = [await reader.read() for reader, _ in clients]
            for _, writer in clients:
                writer.close()
        return received

    for answer in asyncio.run(run()):
        assert answers(answer) == [(200, b"[GET /last] ")]
        assert b"\r\nconnection: close\r\n" in answer


def test_head_and_body_of_an_answer_are_sent_in_one_write() -> None:
    transport = Mock()

    async def answer_twice() -> None:
        transport.is_closing.return_value = False
        writes = JoinedWrites(transport, asyncio.get_running_loop(), lambda: False)
        writes.write(b"head ")
        writes.write(b"body")
        await asyncio.sleep(0)
        writes.write(b"last")
        writes.close()
        await asyncio.sleep(0)

    asyncio.run(answer_twice())

    sent = [call.write(b"head body"), call.write(b"last"), call.is_closing(), call.close()]
    assert transport.mock_calls == sent


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

    assert errors(answer) == [MALFORMED]
