"""A lean HTTP/1.1 keep-alive client for prebuilt requests, so that load costs little."""

import asyncio
from collections import deque
from collections.abc import Callable

# A server may close a connection that has been idle for 5 s (uvicorn's default). A request
# written at that moment would be lost by no fault of the server.
MAX_IDLE_S = 2.0
# select(2) takes descriptors below 1024; see `load.run_loop`.
MAX_CONNECTIONS = 400

LOST = 0
"""Status of a request whose connection was refused or closed before the whole answer."""

Done = Callable[[int, bytes], None]


class BrokenAnswer(ValueError):
    """The bytes are not an HTTP/1.1 answer this client reads."""


class AnswerReader:
    """Cuts one answer out of the bytes of a connection: Content-Length or chunked.

    Good for one answer. What follows it, and there is nothing without pipelining, is dropped.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._body_at = 0
        self._length: int | None = None
        self._status = LOST

    def feed(self, data: bytes) -> tuple[int, bytes] | None:
        """Take bytes as they come; return (status, body) when the answer is whole.

        Raises:
            BrokenAnswer: The answer is malformed.
        """
        self._data += data
        if not self._body_at and not self._read_head():
            return None
        if self._length is None:
            body = self._dechunked()
        elif len(self._data) >= self._body_at + self._length:
            body = bytes(self._data[self._body_at : self._body_at + self._length])
        else:
            return None
        if body is None:
            return None
        return self._status, body

    def _read_head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = bytes(self._data[:end]).lower().split(b"\r\n")
        if not lines[0].startswith(b"http/1."):
            raise BrokenAnswer(f"status line {lines[0][:60]!r}")
        self._status = int(lines[0].split(b" ", 2)[1])
        headers = dict(line.partition(b":")[::2] for line in lines[1:])
        self._body_at = end + 4
        if b"content-length" in headers:
            self._length = int(headers[b"content-length"])
        elif headers.get(b"transfer-encoding", b"").strip() != b"chunked":
            raise BrokenAnswer("neither Content-Length nor chunked")
        return True

    def _dechunked(self) -> bytes | None:
        parts: list[bytes] = []
        at = self._body_at
        while (line_end := self._data.find(b"\r\n", at)) >= 0:
            size = int(bytes(self._data[at:line_end]).split(b";")[0], 16)
            chunk_at = line_end + 2
            if len(self._data) < chunk_at + size + 2:
                return None
            if size == 0:
                return b"".join(parts)
            parts.append(bytes(self._data[chunk_at : chunk_at + size]))
            at = chunk_at + size + 2
        return None


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, pool: "ConnectionPool") -> None:
        self._pool = pool
        self._reader = AnswerReader()
        self._done: Done | None = None
        self.idle_since = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]  # TCP gives a full Transport

    def send(self, request: bytes, done: Done) -> None:
        """Write a whole request; `done(status, body)` follows once."""
        self._done = done
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Collect the answer and hand it on when whole."""
        try:
            answer = self._reader.feed(data)
        except ValueError:  # BrokenAnswer, or a number that is none
            self.transport.abort()
            return
        if answer and (done := self._done):
            self._done = None
            self._reader = AnswerReader()
            self._pool.give_back(self)
            done(*answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the request in flight, if any, as lost."""
        self._pool.forget(self)
        if done := self._done:
            self._done = None
            done(LOST, repr(exc).encode())


class ConnectionPool:
    """Connections to one server, opened as needed; requests beyond the most wait in line."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._idle: list[Connection] = []  # last in, first out: few connections stay in use
        self._open = 0  # counts those being opened too
        self._connections: set[Connection] = set()
        self._waiting: deque[tuple[bytes, Done]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def send(self, request: bytes, done: Done) -> None:
        """Send now on an idle connection, or as soon as there is one."""
        while self._idle:
            connection = self._idle.pop()
            if self._loop.time() - connection.idle_since > MAX_IDLE_S:
                connection.transport.abort()
            elif not connection.transport.is_closing():
                connection.send(request, done)
                return
        self._waiting.append((request, done))
        self._open_another()

    def give_back(self, connection: Connection) -> None:
        """The connection is free: the next in line takes it."""
        if connection.transport.is_closing():
            return
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """The connection is closed; who waits for one gets another."""
        self._open -= 1
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiting:
            self._open_another()

    async def close(self) -> None:
        """Drop all connections, and the requests without an answer with them."""
        self._waiting.clear()
        for task in tuple(self._opening):
            task.cancel()
        for connection in tuple(self._connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # the transports close in the loop's next turn

    def _open_another(self) -> None:
        if self._open < MAX_CONNECTIONS:
            self._open += 1
            task = self._loop.create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        try:
            _, connection = await self._loop.create_connection(
                lambda: Connection(self), *self._address
            )
        except OSError as error:
            self._open -= 1
            if self._waiting:
                self._waiting.popleft()[1](LOST, repr(error).encode())
            return
        self._connections.add(connection)
        self.give_back(connection)
