"""The answers while no API process accepts connections: 503, by the supervisor."""

import asyncio
import errno
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path

from image_classifier.errors import NotReady
from image_classifier.http.schemas import ErrorAnswer, ErrorDetail


def _refusal(state: str) -> bytes:
    request_id = uuid.uuid4().hex
    message = f"the service {state}; try again later"
    detail = ErrorDetail(code=NotReady.code, message=message, request_id=request_id)
    body = ErrorAnswer(error=detail).model_dump_json()
    head = (
        "HTTP/1.1 503 Service Unavailable",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"X-Request-Id: {request_id}",
        f"Retry-After: {NotReady.retry_after_s}",
        "Connection: close",
    )
    return "\r\n".join([*head, "", body]).encode()


REFUSAL_TIMEOUT_S = 2


class StandIn:
    """A server in the supervisor that answers 503 while no API process accepts connections.

    Bound to the event loop in which `open` is called.

    Attributes:
        stopped_lately: An API process became ready since this was set to False.
    """

    def __init__(self) -> None:
        self.stopped_lately = False
        self._listening: socket.socket | None = None
        self._for_shutdown = False
        self._answers: set[asyncio.Task[None]] = set()

    def open(self, listening: socket.socket, step: Path) -> None:
        """Start, unless an API process is ready already.

        Args:
            listening: The socket that the API processes share.
            step: File with the current step of the start; may be missing.
        """
        listening.setblocking(False)
        self._step = step
        self._listening = listening
        self._loop = asyncio.get_running_loop()
        if not self.stopped_lately:
            self.start()

    def start(self, *, for_shutdown: bool = False) -> None:
        """Accept connections until an API process is ready, or until the supervisor ends."""
        self._for_shutdown = for_shutdown
        if self._listening is not None:
            self._loop.add_reader(self._listening.fileno(), self._accept, self._listening)

    def stop(self) -> None:
        """Leave connections to the API processes; called from a signal handler."""
        self.stopped_lately = True
        if self._listening is not None and not self._for_shutdown:
            self._loop.call_soon_threadsafe(self._loop.remove_reader, self._listening.fileno())

    async def finish(self) -> None:
        """Answer the connections that wait; refuse further ones."""
        if self._listening is not None:
            self._loop.remove_reader(self._listening.fileno())
            with suppress(OSError):  # no more connections wait
                while True:
                    self._accept_one(self._listening)
            # The runner's process has the socket, too; closing it here would not end it.
            with suppress(OSError):  # a system that shuts down only connections
                self._listening.shutdown(socket.SHUT_RD)
            await asyncio.gather(*self._answers)

    def _accept(self, listening: socket.socket) -> None:
        try:
            self._accept_one(listening)
        except OSError as error:  # an API process was faster, or the client has left
            if error.errno in (errno.EMFILE, errno.ENFILE):  # called again at once: a busy loop
                time.sleep(0.05)

    def _accept_one(self, listening: socket.socket) -> None:
        task = self._loop.create_task(self._refuse(listening.accept()[0]))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _refuse(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with connection, suppress(OSError, TimeoutError):
            async with asyncio.timeout(REFUSAL_TIMEOUT_S):
                await self._loop.sock_sendall(connection, _refusal(self._state()))
                connection.shutdown(socket.SHUT_WR)
                # Closing with unread data would reset the connection and might lose the answer.
                while await self._loop.sock_recv(connection, 65_536):
                    pass

    def _state(self) -> str:
        if self._for_shutdown:
            return "stops"
        try:
            return f"starts ({self._step.read_text('utf-8')})"
        except FileNotFoundError:
            return "starts"
