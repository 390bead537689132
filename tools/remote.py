"""The words that every destination shares: a file to keep, what is stored, what can be asked."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from tools.errors import UserError, VerificationError
from tools.files import safe

CHUNK = 8 << 20
"""Bytes sent at a time: a multiple of 256 KiB, as both services ask, and the bound on memory."""

TYPES = {
    ".h5": "application/x-hdf5",
    ".hdf5": "application/x-hdf5",
    ".keras": "application/zip",
    ".npz": "application/zip",
    ".gz": "application/gzip",
    ".jsonl": "application/jsonl",
    ".log": "text/plain",
    ".csv": "text/csv",
    ".md": "text/markdown",
}

RUN_AGAIN = "Run the same command again: what is there already is not sent twice."

Moved = Callable[[int], None]
"""Told how many bytes of a file have been sent so far; may go back after a lost connection."""


class CorruptedError(Exception):
    """The service received other bytes than were sent, and kept none of them."""


@dataclass(frozen=True)
class Origin:
    """The kernel version that wrote the files.

    Args:
        kernel: reference, ``owner/slug``.
        version: 1, 2, …
    """

    kernel: str
    version: int

    @property
    def slug(self) -> str:
        """The reference without its owner."""
        return self.kernel.rpartition("/")[2]


@dataclass(frozen=True)
class OutputFile:
    """A file to keep.

    Args:
        path: where it lies here.
        name: what it is called there; relative, parts separated by ``/``.
        size: bytes.
        sha256: hexadecimal, as the kernel recorded it.

    Raises:
        UserError: for a name that could leave the destination or be read in two ways.
    """

    path: Path
    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        if not safe(self.name):
            raise UserError(f"A file cannot be stored under the name {ascii(self.name)}.")

    @cached_property
    def digests(self) -> dict[str, str]:
        """Every checksum that a destination may compare, hexadecimal, by its name.

        Raises:
            VerificationError: where the file is no longer what the kernel recorded.
        """
        import google_crc32c

        sums: dict[str, Any] = {
            "sha256": hashlib.sha256(),
            "md5": hashlib.md5(usedforsecurity=False),
            "crc32c": google_crc32c.Checksum(),
        }
        size = 0
        try:
            with self.path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    size += len(block)
                    for total in sums.values():
                        total.update(block)
        except OSError as failure:
            raise UserError(f"{self.path} cannot be read: {failure.strerror}.") from failure
        # google_crc32c's own hexdigest() returns bytes.
        digests = {name: total.digest().hex() for name, total in sums.items()}
        if (size, digests["sha256"]) != (self.size, self.sha256.lower()):
            raise VerificationError(
                f"{self.path} is not the file that the kernel recorded "
                f"({size:,} bytes here, {self.size:,} recorded).",
                "Fetch the run again.",
            )
        return digests

    @property
    def content_type(self) -> str:
        """The media type; compressed files are archives, never a content encoding."""
        suffix = PurePosixPath(self.name).suffix.lower()
        return TYPES.get(suffix) or mimetypes.guess_type(self.name)[0] or "application/octet-stream"


@dataclass(frozen=True)
class Stored:
    """What a destination holds under a name.

    Args:
        where: the address that a person can use.
        size: bytes.
        digests: the checksums that the service computed, hexadecimal, by name.
        key: what the service tells this very object by: a generation, an id.
        claim: the sha256 that was sent along with it.
    """

    where: str
    size: int
    digests: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    claim: str = ""

    def holds(self, file: OutputFile) -> bool:
        """Whether these are the bytes of ``file``, by every checksum that the service gives."""
        if self.size != file.size:
            return False
        given = {name: digest for name, digest in self.digests.items() if digest}
        return bool(given) and all(file.digests.get(name) == given[name] for name in given)

    def is_broken(self, file: OutputFile) -> bool:
        """Whether this was to be ``file`` and is not: what a failed upload may leave."""
        return self.claim == file.sha256 and not self.holds(file)


class Destination(Protocol):
    """A place that keeps files. Every method may raise any ``ToolsError``.

    ``address`` is what messages call it; ``place`` is the same however the address is written.
    """

    address: str
    place: str

    def check(self) -> str:
        """Sign in, ask for the permissions an upload needs, and say where and as whom."""

    def find(self, name: str) -> Stored | None:
        """Look up what lies under ``name``."""

    def put(self, file: OutputFile, origin: Origin, there: Stored | None, moved: Moved) -> Stored:
        """Store ``file`` in the place of ``there``, and nothing else that may have appeared.

        Raises:
            CorruptedError: the service noticed by itself that bytes changed on the way.
        """

    def remove(self, stored: Stored) -> None:
        """Take away what :meth:`put` stored, and nothing that came after it."""


def changed_meanwhile(where: str) -> UserError:
    """Make the error of a file that somebody else changed while one was to take its place."""
    return UserError(
        f"{where} was changed by somebody else during the upload.",
        "Look at it, then run the same command again.",
    )


class Metered:
    """A file that tells how far it has been read: everything before that has been sent."""

    def __init__(self, stream: IO[bytes], moved: Moved) -> None:
        self._stream = stream
        self._moved = moved

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes."""
        self._moved(self._stream.tell())
        return self._stream.read(size)

    def tell(self) -> int:
        """The position."""
        return self._stream.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position."""
        return self._stream.seek(offset, whence)
