"""Tiny real servers for the tests of the tools that apply load."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

from tools.load import Target
from tools.serving import http_request

Answer = Callable[[int, bytes], tuple[int, bytes]]
"""Number of the request and its body to (status, body)."""


def named(class_id: int) -> bytes:
    return json.dumps({"predictions": [{"class_id": class_id}]}).encode()


async def converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer, count: list[int]
) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), closing(writer):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            number, count[0] = count[0], count[0] + 1
            status, reply = answer(number, body)
            if not status:
                return
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(reply)))
            writer.write(reply)


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[int]:
    """Serve from a thread on a free loopback port; status 0 closes the connection instead."""
    started = threading.Event()
    address: list[int] = []
    writers: list[asyncio.StreamWriter] = []
    loop = asyncio.new_event_loop()
    end = asyncio.Event()

    async def serve() -> None:
        count = [0]

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await converse(reader, writer, answer, count)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with server:
            address.append(server.sockets[0].getsockname()[1])
            started.set()
            await end.wait()
            server.close()
        # Clients are gone or leave with their writers: each conversation ends by itself.
        for writer in writers:
            writer.close()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    started.wait()
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


def read_class(body: bytes) -> int:
    return int(json.loads(body)["predictions"][0]["class_id"])


def target(port: int, images: tuple[bytes, ...] = (b"0", b"1", b"2")) -> Target:
    """Image i is the byte string of its number, and class i is right for it."""
    return Target(
        port=port,
        requests=tuple(http_request("/classify", {}, image) for image in images),
        accepted=tuple(frozenset({index}) for index in range(len(images))),
        read_class=read_class,
    )


def right(_number: int, body: bytes) -> tuple[int, bytes]:
    return 200, named(int(body))
