"""Tiny real servers for tests of the load tools."""

import contextlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tools.load import Target
from tools.serving import http_request

Answer = Callable[[int, bytes], tuple[int, bytes]]
"""Takes the request's number and body, returns (status, body)."""


def prediction(class_id: int) -> bytes:
    return json.dumps({"predictions": [{"class_id": class_id}]}).encode()


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnect."""


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[int]:
    """Answer requests one at a time on a free loopback port; status 0 closes the connection."""
    one_at_a_time, numbers = threading.Lock(), itertools.count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body leave together

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with one_at_a_time:
                status, reply = answer(next(numbers), body)
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None: ...

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def target(port: int, images: tuple[bytes, ...] = (b"0", b"1", b"2")) -> Target:
    """A target whose image i has the body str(i) and the right class i."""
    return Target(
        port=port,
        requests=tuple(http_request("/classify", {}, image) for image in images),
        accepted=tuple(frozenset({index}) for index in range(len(images))),
    )


def right(_number: int, body: bytes) -> tuple[int, bytes]:
    return 200, prediction(int(body))
