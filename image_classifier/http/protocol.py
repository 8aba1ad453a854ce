"""uvicorn's HTTP/1.1 protocol, without upgrades and with cheap refusals."""

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
    """An HTTP/1.1 protocol that ignores `Upgrade` headers and can refuse requests early.

    httptools stops parsing after a head with an upgrade (`curl --http2` and Java's client send
    `Upgrade: h2c`), and uvicorn 0.54.0 then parses the body as the next request: behind a proxy,
    that allows request smuggling. RFC 9110, section 7.8, lets a server ignore the header.

    Attributes:
        keep_alive_s: Seconds an idle connection stays open; None takes uvicorn's setting.
        refuse: Takes the scope of a request; returns an answer to refuse it before its body is
            read, else None. Costs little more than half of a call of the application.
        refusal_delay_s: Seconds before a refusal is sent. Immediate refusals attract requests:
            load balancers prefer the server that is free first, and clients retry at once.
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
        """Reject transfer codings other than a single `chunked`.

        llhttp reads `gzip, chunked`, and `identity` followed by `chunked`, as chunked; a proxy may
        not.
        """
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if codings and [coding.lower() for coding in codings] != [b"chunked"]:
            raise httptools.HttpParserError(f"transfer codings {codings} are not supported")
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        refuse = type(self).refuse
        # The application waits for a client that does not read its answers.
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
        head = STATUS_LINE[refusal.status_code] + b"".join(b"%s: %s\r\n" % pair for pair in headers)
        self.transport.write(head + b"\r\n" + refusal.body)
        if not cycle.keep_alive:
            self.transport.close()
        cycle.response_complete = True  # drops the rest of the body
        self.on_response_complete()

    def on_body(self, body: bytes) -> None:
        """Drop the body of a refused request."""
        if self.cycle is not self._refused:
            super().on_body(body)

    def _should_upgrade(self) -> bool:
        return True  # uvicorn then leaves the request to `_Parser`, which parses it again

    def head_without_upgrade(self) -> bytes:
        """Return the last head that was read, without its `Upgrade` headers."""
        start = b"%s %s HTTP/%s\r\n" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        kept = [(name, value) for name, value in self.headers if name != b"upgrade"]
        return start + b"".join(b"%s: %s\r\n" % header for header in kept) + b"\r\n"


class JoinedWrites:
    """A transport that joins the writes of one event loop iteration.

    uvicorn writes the head and the body of an answer separately; each write is a system call.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data` in the next iteration of the loop."""
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append(data)

    def close(self) -> None:
        """Send pending data, then close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._waiting:
            self._transport.write(b"".join(self._waiting))
            self._waiting.clear()


class _Parser(httptools.HttpRequestParser):
    """A parser that hands a request with an upgrade to a new parser, without the header."""

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
            # This parser considers the message complete: after `Connection: close` it would drop
            # everything that follows.
            self._protocol.parser = _Parser(self._protocol)
            self._protocol.parser.feed_data(head + data[end_of_head:])
