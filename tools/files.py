"""Files written whole or not at all, and names from outside kept inside their folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tools import console
from tools.errors import UserError, VerificationError

LONGEST = 236  # bytes of a name: while its file is on the way, the name has up to 19 more

_UMASK = os.umask(0o077)  # it can only be read by setting it
os.umask(_UMASK)
ORDINARY = 0o666 & ~_UMASK  # the mode that a new file gets, as the person has chosen

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def let_be_read(path: str | Path) -> None:
    """Give a file that its owner alone can read the mode that any new file gets."""
    with contextlib.suppress(OSError):  # a disk without modes, as Windows' are to WSL
        os.chmod(path, ORDINARY)


def write_whole(path: Path, content: str | bytes, private: bool = False) -> Path:
    """Write ``content`` to ``path`` through a temporary file beside it; text as UTF-8.

    A ``private`` file can be read by its owner alone. Half a character, which odd JSON may hold,
    becomes a question mark.

    Raises:
        UserError: the folder cannot be written; nothing is left behind.
    """
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not private:
                let_be_read(name)
            os.replace(name, path)
            _sync_folder(path.parent)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as failure:
        raise UserError(f"{path} cannot be written: {failure.strerror}.") from failure
    return path


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder outlast a power cut, where the system lets one."""
    with contextlib.suppress(OSError):  # Windows opens no folders, and some disks sync none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def alone(lock: Path, waiting: str) -> Iterator[None]:
    """Let no other process hold ``lock`` meanwhile; says ``waiting`` where one does."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        holder = FileLock(lock)
        try:
            holder.acquire(blocking=False)
        except Timeout:
            console.note(waiting)
            holder.acquire()
    except OSError as failure:
        raise UserError(f"{lock} cannot be written: {failure.strerror}.") from failure
    try:
        yield
    finally:
        holder.release()


def parse_json(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is no JSON, or nested more deeply than any that we read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def at_home(path: Path) -> Path:
    """``path`` with the home folder that its ``~`` means.

    Raises:
        UserError: nobody of that name has one.
    """
    try:
        return path.expanduser()
    except RuntimeError as failure:
        raise UserError(f"{path}: {failure}") from failure


def safe(name: str) -> bool:
    """Whether a name that a service gave is relative and means the same on every system."""
    parts = name.split("/")
    return not (
        any(character in '\\:*?"<>|' or not character.isprintable() for character in name)
        or len(name.encode()) > 1000
        or any(part in ("", ".", "..") or len(part.encode()) > LONGEST for part in parts)
        or any(_RESERVED.fullmatch(part) or part.endswith((" ", ".")) for part in parts)
    )


def inside(folder: Path, name: str) -> Path:
    """The path of ``name`` in ``folder``, for a name that a service gave.

    Raises:
        VerificationError: the name is not :func:`safe`, or leads through a link.
    """
    if not safe(name):
        raise VerificationError(f"The name {ascii(name)} is not safe to write below {folder}.")
    path = folder.joinpath(*name.split("/"))
    for step in [path, *path.parents][: name.count("/") + 1]:
        if step.is_symlink():
            raise VerificationError(
                f"{step} is a link, and links are not followed.",
                "Put a file or folder of its own there, or name another folder.",
            )
    return path


class Names:
    """Names of files in one folder that can stand beside each other on any disk.

    Args:
        own: names that the caller may give to files too; no folder can have one.
    """

    def __init__(self, *own: str) -> None:
        self._own = {_key(name): name for name in own}
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def add(self, name: str) -> str | None:
        """Take in a name, or return the one that is in its way.

        That one means the same file where the disk does not tell letters apart, or one of the two
        would be a file and a folder.
        """
        key = _key(name)
        parts = key.split("/")
        folders = ["/".join(parts[:count]) for count in range(1, len(parts))]
        taken = self._files.get(key) or self._folders.get(key)
        for folder in folders:
            taken = taken or self._files.get(folder) or self._own.get(folder)
        if taken:
            return taken
        self._files[key] = name
        self._folders |= dict.fromkeys(folders, name)
        return None


def _key(name: str) -> str:
    """The same for names that some disk takes for the same."""
    return unicodedata.normalize("NFC", name).casefold()
