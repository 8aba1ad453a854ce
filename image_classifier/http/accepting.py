"""Spreads connections evenly over the API processes, which share one listening socket.

asyncio (Python 3.11 to 3.14) accepts all waiting connections at once: one of two processes often
gets all connections of a client, and the other core stays idle as long as they live. Here a process
accepts one at a time, after a delay that grows with the connections it already has; a process that
is late accepts as many as it should have meanwhile, so that under overload no client waits.
"""

import asyncio
import sys
from typing import Any

DELAY_S = 0.0001
"""Seconds a process leaves a new connection to the others, for each connection it has."""
MAX_DELAYS = 10
"""Connections beyond these do not prolong the delay."""

accept_waiting: Any = asyncio.SelectorEventLoop._accept_connection  # type: ignore[attr-defined]


def accept_one(
    loop: Any, protocol: Any, listening: Any, ssl: Any, server: Any, _backlog: int, *timeouts_s: Any
) -> None:
    """Accept one connection after a delay. The parameters are those of `accept_waiting`."""

    def accept() -> None:
        if server.is_serving():
            due = max(1, int((loop.time() - begun_s) / max(delay_s, DELAY_S)))
            loop._start_serving(protocol, listening, ssl, server, 1, *timeouts_s)
            accept_waiting(loop, protocol, listening, ssl, server, due, *timeouts_s)

    connections = len(server._clients) if sys.version_info >= (3, 13) else server._active_count
    begun_s, delay_s = loop.time(), DELAY_S * min(MAX_DELAYS, connections)
    loop._remove_reader(listening.fileno())
    loop.call_later(delay_s, accept)


def spread_connections() -> None:
    """Have the asyncio servers of this process accept one connection at a time."""
    asyncio.SelectorEventLoop._accept_connection = accept_one  # type: ignore[attr-defined]
