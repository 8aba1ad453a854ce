"""A free port for a server under test."""

import contextlib
import secrets
import socket

PORTS = range(20_000, 32_000)
"""Below the system's own range, from which BentoML takes two more ports."""


def free_port() -> int:
    """Return a port that is free at this moment."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
