"""A free port for a server under test."""

import contextlib
import secrets
import socket

PORTS = range(20_000, 32_000)
"""Below those the system gives out: BentoML asks it for two more, and could get ours."""


def free_port() -> int:
    """A port nobody listens on at this moment."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
