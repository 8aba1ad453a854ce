"""A uvicorn server that echoes requests."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from image_classifier.http.protocol import ClassifierProtocol

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with method, path and body."""
    data, more = b"", True
    while more:
        message = await receive()
        data += message.get("body", b"")
        more = message.get("more_body", False)
    answer = f"[{scope['method']} {scope['path']}] ".encode() + data
    length = str(len(answer)).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
    )
    await send({"type": "http.response.body", "body": answer})


@contextlib.asynccontextmanager
async def serving(
    protocol: Any = ClassifierProtocol, listening: socket.socket | None = None, app: Any = echo
) -> AsyncIterator[uvicorn.Server]:
    """Serve `app` on a free port, or on a socket shared with other servers."""
    config = uvicorn.Config(app, http=protocol, log_config=None, lifespan="off", port=0)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(None if listening is None else [listening.dup()]))
    while not server.started:
        await asyncio.sleep(0.001)
    yield server
    server.should_exit = True
    await task


def address_of(server: uvicorn.Server) -> tuple[str, int]:
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return "127.0.0.1", port


def exchange(*packets: bytes, protocol: Any = ClassifierProtocol) -> bytes:
    """Send packets one by one over a connection; return everything received."""

    async def run() -> bytes:
        async with serving(protocol) as server:
            reader, writer = await asyncio.open_connection(*address_of(server))
            for packet in packets:
                writer.write(packet)
                await writer.drain()
                await asyncio.sleep(0.005)  # so that the server reads each separately
            answer = await reader.read()
            writer.close()
        return answer

    return asyncio.run(run())


def upgrade(value: bytes, data: bytes, framing: bytes = b"") -> bytes:
    framing = framing or b"Content-Length: %d" % len(data)
    return (
        b"POST /first HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n%s\r\n\r\n%s" % (value, framing, data)
    )
