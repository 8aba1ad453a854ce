"""Spreads connections evenly over the API processes, which share one listening socket."""

import asyncio
import functools
import socket
from typing import Any

import uvicorn

from image_classifier.logs import logger

DELAY_S = 0.0001
"""Seconds that a process leaves a new connection to the others for each one it has."""
LONGEST_DELAYS = 10
"""Connections beyond these make the delay no longer."""
RETRY_S = 1.0
"""Seconds before a process that has no file descriptors left tries again, as asyncio does."""


class Acceptor:
    """Takes the new connections of a uvicorn server from one of its listening sockets.

    asyncio (Python 3.11 to 3.14) takes all that wait at once, so that of six connections of a
    client one of two processes often gets all, and the other core is idle for as long as they live.
    Here a process takes one, or a quarter of those it has, and the longer it waits the more it has.

    Belongs to the event loop of the server.
    """

    def __init__(self, server: uvicorn.Server, listening: socket.socket) -> None:
        self._server = server
        self._listening = listening
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[Any]] = set()
        self._loop.remove_reader(listening)  # asyncio's own
        self._watch()

    def _watch(self) -> None:
        if self._listening.fileno() >= 0 and not self._server.should_exit:
            self._loop.add_reader(self._listening, self._wait)

    def _wait(self) -> None:
        self._loop.remove_reader(self._listening)
        delay_s = DELAY_S * min(LONGEST_DELAYS, len(self._server.server_state.connections))
        self._loop.call_later(delay_s, self._accept)

    def _accept(self) -> None:
        if self._listening.fileno() < 0 or self._server.should_exit:
            return
        for _ in range(1 + len(self._server.server_state.connections) // 4):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break  # another process was sooner, or the client has left
            except OSError as error:
                logger.warning("no connection can be taken, next try in 1 s: %s", error)
                self._loop.call_later(RETRY_S, self._watch)
                return
            connection.setblocking(False)
            self._open(connection)
        self._watch()

    def _open(self, connection: socket.socket) -> None:
        config = self._server.config
        protocol = functools.partial(
            config.http_protocol_class,  # type: ignore[call-arg]  # as uvicorn makes them
            config=config,
            server_state=self._server.server_state,
            app_state=self._server.lifespan.state,
        )
        opening = self._loop.create_task(
            self._loop.connect_accepted_socket(protocol, connection, ssl=config.ssl)
        )
        self._opening.add(opening)
        opening.add_done_callback(self._opened)

    def _opened(self, opening: asyncio.Task[Any]) -> None:
        self._opening.discard(opening)
        if not opening.cancelled() and (error := opening.exception()):
            logger.info("a connection failed before its first request: %s", error)


def spread_connections() -> None:
    """Have uvicorn servers of this process take connections as `Acceptor` does."""
    start = uvicorn.Server.startup

    async def startup(server: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        await start(server, sockets)
        for listening in sockets or ():
            Acceptor(server, listening)

    uvicorn.Server.startup = startup  # type: ignore[assignment,method-assign]
