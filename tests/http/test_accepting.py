"""Connections are spread over the API processes that share a listening socket."""

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from image_classifier.http.accepting import (
    ConnectionCounts,
    accept_waiting,
    connections_of,
    spread_connections,
)
from tests.http.echo_server import serving
from tests.imports import ROOT


class CountsInProcess:
    """`ConnectionCounts` for servers of one process."""

    def __init__(self) -> None:
        self.servers: list[Any] = []

    def excess(self, server: Any) -> int:
        if server not in self.servers:
            self.servers.append(server)
        return connections_of(server) - min(map(connections_of, self.servers))


@pytest.fixture
def spreading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.SelectorEventLoop, "_accept_connection", accept_waiting)
    spread_connections(CountsInProcess())


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


def test_processes_see_each_others_connections_until_one_ends(tmp_path: Path) -> None:
    other = f"""
import sys
from pathlib import Path
from types import SimpleNamespace
from image_classifier.http.accepting import ConnectionCounts
counts = ConnectionCounts(Path({str(tmp_path)!r}), 2)
for count in map(int, sys.stdin):
    server = SimpleNamespace(_active_count=count, _clients=[0] * count)
    print(counts.excess(server), flush=True)
"""

    def excess(count: int) -> int:
        return own.excess(SimpleNamespace(_active_count=count, _clients=[0] * count))

    def start() -> subprocess.Popen[str]:
        words = [sys.executable, "-c", other]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def tell(process: subprocess.Popen[str], count: int) -> int:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    own = ConnectionCounts(tmp_path, 2)
    assert excess(3) == 3
    with start() as process:
        assert tell(process, 5) == 2
        assert excess(3) == 0
        assert tell(process, 1) == 0
        assert excess(3) == 2
        process.kill()
    with start() as process:  # in the place of the other one
        assert tell(process, 2) == 0
        assert excess(3) == 1
        process.kill()
