"""Request bodies: each read within a limit, all together within another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from image_classifier.errors import BodyTooLarge, Overloaded
from image_classifier.http.messages import ClientGone, Receive, Scope, header

Take = Callable[[int], None]
"""Takes bytes of the memory for bodies; raises Overloaded where there are not enough."""


class BodyMemory:
    """Bounds the bytes of bodies that a process holds, from their first byte to their answer.

    Admission counts images that are complete. Without this, clients that send slowly could fill
    the memory with bodies that are not: a hundred of 20 MB are 2 GB.

    Args:
        max_bytes: Of all bodies; one that is alone may be larger.
    """

    def __init__(self, max_bytes: int) -> None:
        self.held = 0
        self._max_bytes = max_bytes

    @contextmanager
    def hold(self) -> Iterator[Take]:
        """Hold what is taken by the function this yields until the end of the block."""
        own = 0

        def take(count: int) -> None:
            nonlocal own
            if self.held > own and self.held + count > self._max_bytes:
                raise Overloaded("the service holds as many bytes as it may; try again later")
            self.held += count
            own += count

        try:
            yield take
        finally:
            self.held -= own


async def read_body(scope: Scope, receive: Receive, max_bytes: int, take: Take) -> bytes:
    """The whole body of a request.

    Args:
        take: Is told of every part before it is kept.

    Raises:
        BodyTooLarge: It says, or turns out, to be larger than `max_bytes`.
        Overloaded: There is no memory for it.
        ClientGone: The connection ended before the body did.
    """
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > max_bytes:
        raise BodyTooLarge(f"the body has {int(declared)} bytes, the limit is {max_bytes}")
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        length += len(part)
        if length > max_bytes:
            raise BodyTooLarge(f"the body has more than {max_bytes} bytes")
        take(len(part))
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
