"""ASGI messages: headers, sending a JSON answer."""

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientGone(Exception):
    """The client closed the connection; nobody is left to answer."""


def header(scope: Scope, name: bytes) -> str | None:
    """The first header called `name` (lower case); None where there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


async def send_json(
    send: Send, status: int, value: object, headers: Mapping[str, str] | None = None
) -> None:
    """Send a JSON document in one piece."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    await send_body(send, status, ("application/json", body), headers or {})


async def send_body(
    send: Send, status: int, content: tuple[str, bytes], headers: Mapping[str, str]
) -> None:
    """Send a content type and its bytes in one piece."""
    content_type, body = content
    pairs = {"content-type": content_type, "content-length": str(len(body)), **headers}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs.items()
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
