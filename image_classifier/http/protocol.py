"""uvicorn's HTTP/1.1 protocol, without upgrades, with limits on heads and with cheap refusals."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar, Literal, cast

import httptools
from starlette.responses import Response
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from image_classifier.errors import BodyTooSlow, HeadersTooLarge, MalformedRequest
from preprocessing.errors import ClientError

HEAD_TIMEOUT_S = 60
WRITE_TIMEOUT_S = 60
"""Seconds after which the connection of a client that does not read its answers is closed."""
MAX_HEAD_BYTES = 65_536
LINGER_S = 2
"""Seconds for which a connection that is to be closed still takes the rest of a request."""
LAST_REQUEST_S = 0.1
"""Seconds in which a client that has just connected may send a request while the server stops."""
TOO_LARGE = f"the request line and headers have more than {MAX_HEAD_BYTES} bytes"


class ClassifierProtocol(HttpToolsProtocol):
    """An HTTP/1.1 protocol that ignores `Upgrade` headers and can refuse requests early.

    httptools stops parsing after a head with an upgrade (`curl --http2` and Java's client send
    `Upgrade: h2c`), and uvicorn 0.54.0 then parses the body as the next request: behind a proxy,
    that allows request smuggling. RFC 9110, section 7.8, lets a server ignore the header.

    Attributes:
        keep_alive_s: Seconds an idle connection stays open; None takes uvicorn's setting.
        reject: Returns the answer to a request that cannot be read; called with the reason. The
            connection is then closed.
        refuse: Takes the scope of a request; returns an answer to refuse it before its body is
            read, else None. Costs little more than half of a call of the application.
        refusal_delay_s: Seconds before a refusal is sent. Immediate refusals attract requests:
            load balancers prefer the server that is free first, and clients retry at once.
    """

    keep_alive_s: ClassVar[float | None] = None
    reject: ClassVar[Callable[[ClientError], Response] | None] = None
    refuse: ClassVar[Callable[[Scope], Response | None] | None] = None
    refusal_delay_s: ClassVar[float] = 0.0

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        if self.keep_alive_s is not None:
            self.timeout_keep_alive = self.keep_alive_s  # type: ignore[assignment]  # call_later's
        self.parser = _Parser(self)
        self._refused: RequestResponseCycle | None = None
        self._reading: Literal["head", "body"] | None = None  # part of the message that is read
        self._head_bytes = 0  # received since the parser last began a message or read a body

    def connection_made(self, transport: Any) -> None:
        """Write through `JoinedWrites`; close the connection if it stays idle."""
        joined = JoinedWrites(transport, self.loop, lambda: self._reading is not None)
        super().connection_made(cast(asyncio.Transport, joined))
        self._restart_timer()

    def data_received(self, data: bytes) -> None:
        """Parse data; reject a request that is not valid HTTP or whose head is too large.

        Unlike uvicorn's, a connection on which no request is in progress always has a timer:
        single bytes do not keep it open.
        """
        if self.transport.is_closing():
            return  # drops the rest of a request
        before = self._reading
        self._head_bytes += len(data)  # callbacks of the parser set it to 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            cause = error.__context__  # the error of a callback
            if not isinstance(cause, ClientError):
                cause = MalformedRequest("the request is not valid HTTP/1.1")
            self._reject(cause)
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._reject(HeadersTooLarge(TOO_LARGE))
        elif self._in_progress():
            self._unset_keepalive_if_required()
        elif self._reading != before:
            self._restart_timer()

    def _in_progress(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _restart_timer(self) -> None:
        self._unset_keepalive_if_required()
        seconds = HEAD_TIMEOUT_S if self._reading == "head" else self.timeout_keep_alive
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, with 408 if a head has begun."""
        if self._reading == "head" and not self.transport.is_closing():
            self._reject(BodyTooSlow("the headers took too long"))
        else:
            super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        """Wait for a client that does not read; asyncio calls this when its buffer is full."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        self._write_timer.cancel()

    def _reject(self, error: ClientError) -> None:
        """Answer a request that cannot be read, and close the connection.

        Not if its answer was sent before its body was read, or if its head follows a request in
        progress.
        """
        reject = type(self).reject
        if reject is not None and self.pipeline and self._reading == "body":
            self._reading = None  # once is enough
            self.cycle.keep_alive = False
            self.pipeline[0] = self.cycle, cast(Any, reject(error))  # after the others' answers
        elif reject is not None and self._in_progress() == (self._reading == "body"):
            self._send(reject(error), keep_alive=False)
        else:
            super().shutdown()  # closes the connection once all requests in progress are answered

    def shutdown(self) -> None:
        """Close the connection, once its request is answered, while the server stops."""
        if self.cycle is None:
            self.loop.call_later(LAST_REQUEST_S, super().shutdown)
        else:
            super().shutdown()

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._reading, self._head_bytes = "head", 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Reject large heads, a missing host, and transfer codings other than a single `chunked`.

        llhttp reads `gzip, chunked`, and `identity` followed by `chunked`, as chunked; a proxy may
        not.
        """
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if codings and [coding.lower() for coding in codings] != [b"chunked"]:
            raise MalformedRequest("only the transfer coding `chunked` is supported")
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) != 1 and self.parser.get_http_version() == "1.1":  # RFC 9112, section 3.2
            raise MalformedRequest("expected one header Host")
        separators = len(b": \r\n")
        lengths = (len(name) + len(value) + separators for name, value in self.headers)
        if len(self.url) + sum(lengths) > MAX_HEAD_BYTES:
            raise HeadersTooLarge(TOO_LARGE)
        super().on_headers_complete()
        self._reading, self._head_bytes = "body", 0
        # uvicorn 0.54.0 does not call `shutdown` of a connection that is accepted while it calls
        # those of the others; as long as a client used it, the process would not end.
        server = getattr(self.transport, "_server", None)  # asyncio's
        if self.cycle is not None and server is not None and not server.is_serving():
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """End a message."""
        self._reading, self._head_bytes = None, 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        refuse = type(self).refuse
        # The application waits for a client that does not read its answers.
        refusal = None
        if refuse is not None and not self.flow.write_paused:
            # A bug: the application, which asks again, answers 500 and logs it. Here the parser
            # would call the request malformed.
            with suppress(Exception):
                refusal = refuse(cast(Scope, cycle.scope))
        if refusal is None:
            super()._start_asgi_task(cycle, app)
            return
        self._refused = cycle
        self.loop.call_later(self.refusal_delay_s, self._send_refusal, cycle, refusal)

    def _send_refusal(self, cycle: RequestResponseCycle, refusal: Response) -> None:
        if self.transport.is_closing():
            return
        self._send(refusal, keep_alive=cycle.keep_alive)
        cycle.response_complete = True  # drops the rest of the body
        self.on_response_complete()

    def _send(self, response: Response, *, keep_alive: bool) -> None:
        headers = [*self.server_state.default_headers, *response.raw_headers]
        if not keep_alive:
            headers.append((b"connection", b"close"))
        head = STATUS_LINE[response.status_code] + b"".join(
            b"%s: %s\r\n" % pair for pair in headers
        )
        self.transport.write(head + b"\r\n" + response.body)
        if not keep_alive:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        """Drop the body of a refused request."""
        self._head_bytes = 0
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

    Args:
        receiving: Whether the client has sent a part of a request.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        receiving: Callable[[], bool],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._receiving = receiving
        self._lingers = False
        self._waiting: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data` in the next iteration of the loop, unless the connection is closing."""
        if self._lingers:
            return
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append(data)

    def is_closing(self) -> bool:
        """Return whether `close` was called."""
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        """Send pending data, then close; later if the client is sending a request.

        Closing with unread data resets the connection, and the client may lose the answer.
        """
        self._send()
        if self.is_closing() or not self._receiving() or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._lingers = True
        self._transport.write_eof()
        self._transport.resume_reading()
        self._loop.call_later(LINGER_S, self._transport.close)  # or when the client closes

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
