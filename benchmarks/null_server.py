"""A server that reads the body and answers at once: what the load generator itself costs."""

import asyncio
import sys

BODY = b'{"predictions": [{"class_id": 0}]}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class NullServer(asyncio.Protocol):
    """Counts bytes up to Content-Length, then answers."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.missing = 0

    def data_received(self, data: bytes) -> None:
        """Head and body may come in any number of pieces; a head comes in one."""
        if not self.missing:
            head, _, data = data.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if b"content-length:" in line]
            self.missing = int(lengths[0].partition(b":")[2])
        self.missing -= len(data)
        if not self.missing:
            self.transport.write(ANSWER)


async def serve(port: int) -> None:
    """Listen on the loopback address until terminated."""
    server = await asyncio.get_running_loop().create_server(NullServer, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
