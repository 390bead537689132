"""The memory that an upload of 300 MB takes, for both services, on the loopback interface.

``python tests/bench_upload.py`` prints one row a service and the same as JSON. Each upload runs in
a process of its own; its memory is what its peak grew by after the sign-in. The client for Cloud
Storage as it comes holds 100 MiB at a time; that for Drive streams, and cannot go on after a 503.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
MEGABYTES = 300

Row = dict[str, Any]


def peak_megabytes() -> float:
    """The highest memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage() counts what the parent had before exec
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1e3  # type: ignore[index]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def ours(address: str, path: Path) -> None:
    """Upload with the tools, their digests and their check included."""
    from tools.destinations import ready, upload
    from tools.remote import Origin, OutputFile

    origin = Origin("ada/pix2pix", 1)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    goals = ready([address], origin)
    before, began = peak_megabytes(), time.perf_counter()
    upload([OutputFile(path, path.name, path.stat().st_size, digest)], origin, goals)
    report(began, before)


def plain_gcs(address: str, path: Path) -> None:
    """Upload with Google's client for Cloud Storage as it comes."""
    from google.cloud import storage

    bucket = storage.Client(project="test").bucket(address.removeprefix("gs://"))
    before, began = peak_megabytes(), time.perf_counter()
    bucket.blob(f"plain-{path.name}").upload_from_filename(path)
    report(began, before)


def report(began: float, before: float) -> None:
    """Tell the process that waits."""
    figures = {"seconds": time.perf_counter() - began, "megabytes": peak_megabytes() - before}
    print(json.dumps(figures))


WAYS = {way.__name__: way for way in (ours, plain_gcs)}


def measured(way: str, address: str, path: Path, **server: str) -> dict[str, float]:
    """Run one way in a process of its own."""
    command = [sys.executable, __file__, way, address, str(path)]
    environment = {**os.environ, **server}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


@contextlib.contextmanager
def drive_server() -> Iterator[str]:
    """The Drive of the tests, in a process of its own."""
    from tests.ports import free_port

    port = free_port()
    command = [sys.executable, str(PROJECT / "tests" / "peers" / "drive.py"), str(port)]
    with subprocess.Popen(command) as process:
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def random_file(path: Path, megabytes: int) -> Path:
    """Write bytes that no one can compress."""
    chance = random.Random(0)
    with path.open("wb") as stream:
        for _ in range(megabytes):
            stream.write(chance.randbytes(1_000_000))
    return path


def upload() -> Iterator[Row]:
    """One row a service."""
    from tests.peers.gcs import fake_gcs_server, new_bucket
    from tests.ports import free_port

    with tempfile.TemporaryDirectory() as folder:
        path = random_file(Path(folder) / "generator.h5", MEGABYTES)
        with fake_gcs_server(free_port()) as url:
            server = {"STORAGE_EMULATOR_HOST": url}
            os.environ |= server
            address = f"gs://{new_bucket().name}"
            our, their = (measured(way, address, path, **server) for way in ("ours", "plain_gcs"))
            yield row("Cloud Storage", our) | {
                "compared with": f"the client as it comes +{their['megabytes']:.0f} MB",
                "ratio": their["megabytes"] / our["megabytes"],
            }
        with drive_server() as url:
            yield row("Drive", measured("ours", "drive:root", path, DRIVE_EMULATOR_HOST=url))


def row(service: str, found: dict[str, float]) -> Row:
    """A row of the table of benchmarks."""
    return {
        "what": f"memory, upload of {MEGABYTES} MB to {service}",
        "ours": f"+{found['megabytes']:.0f} MB",
        "compared with": "",
        "ratio": None,
        **found,
    }


def main() -> None:
    """Print the rows as a table and as JSON."""
    rows = list(upload())
    for found in rows:
        print(f"| {found['what']} | {found['ours']} | {found['compared with']} |")
    print(json.dumps(rows))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        WAYS[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
    else:
        main()
