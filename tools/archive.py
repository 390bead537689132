"""A zip file in remote storage, unpacked safely and only as far as files are missing.

Where the storage serves ranges, the archive is never written to disk. Its directory stands at its
end, so a few ranged requests tell what is in it; members are then read in order over one
connection, which is opened again where it broke, and each file appears under its name only when it
is whole.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.errors import UserError, VerificationError
from tools.files import Names, inside, let_be_read, safe

MOST_FILES = 200_000
MOST_BYTES = 32 << 30
MOST_RATIO = 200  # of the unpacked to the packed size; photographs have 1, tables of numbers 20
SMALL = 10 << 20  # files below this may have any ratio
LARGEST_READ = 128 << 20

_CHUNK = 1 << 20

OpenAt = Callable[[int], tuple[Any, int]]


@dataclass(frozen=True)
class Member:
    """A file in an archive and the path it is to have."""

    info: zipfile.ZipInfo
    target: Path


class RemoteFile(io.RawIOBase):
    """A seekable file over ranged requests; it goes on where a connection broke.

    Args:
        open_at: opens a stream at an offset and returns it with the size of the whole. It does the
            retries, and raises when they are used up or when it comes to the same offset too often.
        failures: what reading from such a stream raises when the connection breaks.
    """

    def __init__(self, open_at: OpenAt, failures: tuple[type[Exception], ...]) -> None:
        self._open_at, self._failures = open_at, failures
        self._stream, self.size = open_at(0)
        self._place = self._stream_place = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The place at which the next read begins."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the place; the next read opens a connection there if it is far away."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer) -> int:  # type: ignore[override]
        """Read once from the stream.

        Raises:
            VerificationError: the archive is not the one that was opened.
        """
        wanted = min(len(buffer), self.size - self._place)
        data = b""
        while wanted > 0 and not data:
            try:
                data = self._stream.read(wanted) if self._aligned() else b""
            except self._failures:
                pass
            if not data:
                self._reopen()
        buffer[: len(data)] = data
        self._place += len(data)
        self._stream_place = self._place
        return len(data)

    def close(self) -> None:
        """Close the connection too."""
        self._stream.close()
        super().close()

    def _aligned(self) -> bool:
        """Whether the stream stands at the place, after reading on over a short distance."""
        if not 0 <= self._place - self._stream_place <= _CHUNK:
            self._reopen()
        while self._stream_place < self._place:
            skipped = len(self._stream.read(self._place - self._stream_place))
            if not skipped:
                return False
            self._stream_place += skipped
        return True

    def _reopen(self) -> None:
        self._stream.close()
        self._stream, size = self._open_at(self._place)
        self._stream_place = self._place
        if size != self.size:
            raise VerificationError(
                "The archive changed while it was being read.", "Run the command again."
            )


def open_archive(remote: RemoteFile) -> zipfile.ZipFile:
    """The archive's directory.

    Raises:
        VerificationError: it is no zip file, or an absurd one.
    """
    try:
        return zipfile.ZipFile(_Buffered(remote, _CHUNK))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as failure:
        raise VerificationError(
            f"The archive cannot be read: {failure}.", "Run the command again later."
        ) from None


class _Buffered(io.BufferedReader):
    """Refuses a directory that would fill the memory."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > LARGEST_READ:
            raise zipfile.BadZipFile("its directory is too large")
        return super().read(size)


def members(archive: zipfile.ZipFile, folder: Path) -> list[Member]:
    """The archive's files and where they belong under ``folder``; all are checked first.

    Raises:
        VerificationError: a name that leads elsewhere, a link, two names for one file, or sizes
            that no data set has. Nothing was written.
    """
    infos = archive.infolist()
    if len(infos) > MOST_FILES:
        raise _refused(f"it has {len(infos):,} files, more than {MOST_FILES:,}")
    found: list[Member] = []
    names = Names()
    total = 0
    for info in infos:
        target = _safe_target(info, folder)
        total += info.file_size
        if info.file_size > SMALL and info.file_size > MOST_RATIO * info.compress_size:
            raise _refused(f"{target.name!r} would unpack to {info.file_size:,} bytes")
        if info.is_dir():
            continue
        if other := names.add(info.orig_filename):
            raise _refused(f"{other!r} and {info.orig_filename!r} cannot stand beside each other")
        found.append(Member(info, target))
    if total > MOST_BYTES:
        raise _refused(f"it would unpack to {total >> 30} GiB, more than {MOST_BYTES >> 30}")
    return found


def missing(wanted: Iterable[Member]) -> list[Member]:
    """The members whose file is not there, or has another size or checksum."""
    return [member for member in wanted if not _is_there(member)]


def unpack(archive: zipfile.ZipFile, wanted: list[Member], folder: Path) -> Iterator[Member]:
    """Unpack members one by one; each is yielded when its file stands, whole, under its name.

    Raises:
        UserError: the disk is too small, or the folder cannot be written.
        VerificationError: a member's checksum is wrong; its file was not written.
    """
    needed = sum(member.info.file_size for member in wanted)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as failure:
        raise UserError(f"{folder} cannot be used: {failure.strerror}.") from failure
    if needed > free:
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are needed.",
            "Free some space, or name another folder.",
        )
    for member in sorted(wanted, key=lambda member: member.info.header_offset):
        try:
            _write(archive, member, folder)
        # RuntimeError: a member's own header asks for what zipfile cannot do, as a password.
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as failure:
            raise VerificationError(
                f"{member.target} is damaged in the archive: {failure}.",
                "Run the command again; what is whole stays.",
            ) from failure
        except OSError as failure:
            raise UserError(f"{member.target} cannot be written: {failure.strerror}.") from failure
        yield member


def _write(archive: zipfile.ZipFile, member: Member, folder: Path) -> None:
    member.target.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(suffix=".part", prefix=".", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file, archive.open(member.info) as packed:
            shutil.copyfileobj(packed, file, _CHUNK)
        let_be_read(part)
        os.replace(part, member.target)
    finally:
        Path(part).unlink(missing_ok=True)


def _safe_target(info: zipfile.ZipInfo, folder: Path) -> Path:
    """The member's path; the name as it stands in the archive must be plain."""
    name = info.orig_filename
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(f"{ascii(name)} is a link or a device")
    if info.flag_bits & 1:
        raise _refused(f"{ascii(name)} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(f"{ascii(name)} is compressed in a rare way ({info.compress_type})")
    if not safe(name.removesuffix("/")):
        raise _refused(f"the name {ascii(name)} is not safe to write below {folder}")
    return inside(folder, name.removesuffix("/"))


def _is_there(member: Member) -> bool:
    try:
        if member.target.stat().st_size != member.info.file_size:
            return False
        checksum = 0
        with member.target.open("rb") as file:
            while chunk := file.read(_CHUNK):
                checksum = zlib.crc32(chunk, checksum)
    except OSError:
        return False
    return checksum == member.info.CRC


def _refused(reason: str) -> VerificationError:
    return VerificationError(
        f"The archive is refused: {reason}.", "Nothing was unpacked; tell the competition's host."
    )
