"""Connections are spread over the API processes that share a listening socket."""

import asyncio
import socket
import time

import pytest

from image_classifier.http.accepting import accept_waiting, spread_connections
from tests.http.echo_server import serving


@pytest.fixture
def spreading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.SelectorEventLoop, "_accept_connection", accept_waiting)
    spread_connections()


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=128)


async def answer_on(sock: socket.socket) -> tuple[asyncio.StreamWriter, bytes]:
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    writer.write(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    return writer, head


@pytest.mark.usefixtures("spreading")
def test_simultaneous_connections_are_spread_over_the_processes() -> None:
    count = 60

    async def shares() -> list[int]:
        with listening() as sock:
            async with serving(listening=sock) as first, serving(listening=sock) as second:
                opened = await asyncio.gather(*(answer_on(sock) for _ in range(count)))
                found = [len(server.server_state.connections) for server in (first, second)]
                for writer, _ in opened:
                    writer.close()
        return found

    fewest, most = sorted(asyncio.run(shares()))
    assert fewest + most == count
    assert fewest >= count // 3


@pytest.mark.usefixtures("spreading")
def test_the_remaining_process_accepts_all_connections() -> None:
    async def answers() -> list[bytes]:
        with listening() as sock:
            async with serving(listening=sock):
                async with serving(listening=sock):
                    writer, _ = await answer_on(sock)
                    writer.close()
                opened = [await answer_on(sock) for _ in range(5)]
                for writer, _ in opened:
                    writer.close()
        return [head for _, head in opened]

    assert all(head.startswith(b"HTTP/1.1 200") for head in asyncio.run(answers()))


@pytest.mark.usefixtures("spreading")
def test_a_busy_process_accepts_the_waiting_connections_in_few_turns() -> None:
    count = 60

    async def turns() -> int:
        busy_turns = 0
        with listening() as sock:
            opened = [socket.create_connection(sock.getsockname()) for _ in range(count)]
            async with serving(listening=sock) as server:
                while len(server.server_state.connections) < count:
                    time.sleep(0.01)  # other work of the event loop
                    await asyncio.sleep(0)
                    busy_turns += 1
                for connection in opened:
                    connection.close()
        return busy_turns

    assert asyncio.run(turns()) < count
