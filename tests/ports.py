"""Ports for servers that can't choose one themselves."""

import contextlib
import secrets
import socket


def free_port() -> int:
    """A port below all that a system gives out by itself, so that nobody gets it meanwhile."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
