"""uvicorn's HTTP/1.1 protocol: no upgrades, cheap refusals, an answer in one write."""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, cast

import httptools
from starlette.responses import Response
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)


class ClassifierProtocol(HttpToolsProtocol):
    """Reads a request that offers an upgrade like any other one, body included.

    httptools stops at the end of such a head (`curl --http2` and Java's client send one with
    `Upgrade: h2c`), and uvicorn 0.54.0 goes on with the body as if it were the next request:
    behind a proxy, a way to smuggle requests. RFC 9110, section 7.8, lets a server ignore the
    header. No WebSocket is served, so none is missed.

    Attributes:
        keep_alive_s: Seconds an idle connection stays open; None takes uvicorn's setting.
        refuse: Returns the answer to a request, given its scope, that the application would refuse
            whatever its body is; else None. Under overload most requests end here, at little more
            than half the cost of calling the application.
        refusal_delay_s: Seconds after which such an answer is sent. Sent at once, refusals draw
            requests: a load balancer prefers the connection, a client the server, that is free
            again first, and a client that repeats at once would keep a core busy.
    """

    keep_alive_s: ClassVar[float | None] = None
    refuse: ClassVar[Callable[[Scope], Response | None] | None] = None
    refusal_delay_s: ClassVar[float] = 0.0

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        if self.keep_alive_s is not None:
            self.timeout_keep_alive = self.keep_alive_s  # type: ignore[assignment]  # call_later's
        self.parser = _Parser(self)
        self._refused: RequestResponseCycle | None = None

    def connection_made(self, transport: Any) -> None:
        """Write through `JoinedWrites`."""
        super().connection_made(cast(asyncio.Transport, JoinedWrites(transport, self.loop)))

    def on_headers_complete(self) -> None:
        """Refuse transfer codings other than one `chunked`.

        llhttp frames `gzip, chunked`, and `identity` followed by `chunked`, as chunked; a proxy
        in front may not.
        """
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if codings and [coding.lower() for coding in codings] != [b"chunked"]:
            raise httptools.HttpParserError(f"transfer codings {codings} are not supported")
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        refuse = type(self).refuse
        # A client that does not read its answers is left to the application, which waits for it.
        refusal = None
        if refuse is not None and not self.flow.write_paused:
            refusal = refuse(cast(Scope, cycle.scope))
        if refusal is None:
            super()._start_asgi_task(cycle, app)
            return
        self._refused = cycle
        self.loop.call_later(self.refusal_delay_s, self._send_refusal, cycle, refusal)

    def _send_refusal(self, cycle: RequestResponseCycle, refusal: Response) -> None:
        if self.transport.is_closing():
            return
        headers = [*cycle.default_headers, *refusal.raw_headers]
        if not cycle.keep_alive:
            headers.append((b"connection", b"close"))
        head = STATUS_LINE[refusal.status_code] + b"".join(b"%s: %s\r\n" % one for one in headers)
        self.transport.write(head + b"\r\n" + refusal.body)
        if not cycle.keep_alive:
            self.transport.close()
        cycle.response_complete = True  # what comes of the body is dropped
        self.on_response_complete()

    def on_body(self, body: bytes) -> None:
        """Drop what comes of the body of a request that is refused."""
        if self.cycle is not self._refused:
            super().on_body(body)

    def _should_upgrade(self) -> bool:
        return True  # uvicorn then leaves the request alone; the parser reads it again

    def head_without_upgrade(self) -> bytes:
        """Return the head that was just read, without its `Upgrade` headers."""
        start = b"%s %s HTTP/%s\r\n" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        kept = [(name, value) for name, value in self.headers if name != b"upgrade"]
        return start + b"".join(b"%s: %s\r\n" % header for header in kept) + b"\r\n"


class JoinedWrites:
    """A transport that sends at once what is written in one turn of the event loop.

    uvicorn writes the head and the body of an answer apart; each write is a call into the kernel.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data` at the end of this turn."""
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append(data)

    def close(self) -> None:
        """Send what is written, then close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._waiting:
            self._transport.write(b"".join(self._waiting))
            self._waiting.clear()


class _Parser(httptools.HttpRequestParser):
    """Hands a request that offers an upgrade to a parser of its own, without the upgrade."""

    def __init__(self, protocol: ClassifierProtocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def feed_data(self, data: Any) -> None:
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.get_method() == b"CONNECT":  # upgrades without the header
                raise httptools.HttpParserError("CONNECT is not supported") from upgrade
            (end_of_head,) = upgrade.args
            head = self._protocol.head_without_upgrade()
            # This parser takes the message for complete: after `Connection: close` it would
            # drop whatever follows.
            self._protocol.parser = _Parser(self._protocol)
            self._protocol.parser.feed_data(head + data[end_of_head:])
