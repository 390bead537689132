"""Files written whole or not at all, and names from outside kept inside their folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tools import console
from tools.errors import UserError, VerificationError

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def write_whole(path: Path, content: str | bytes, mode: int = 0o644) -> Path:
    """Write ``content`` to ``path`` through a temporary file beside it; text as UTF-8.

    Until it has ``mode``, the file can be read by its owner alone.

    Raises:
        UserError: the folder cannot be written; nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, mode)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as failure:
        raise UserError(f"{path} cannot be written: {failure.strerror}.") from failure
    return path


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
        len(name) > 1000
        or any(character in '\\:*?"<>|' or not character.isprintable() for character in name)
        or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)
        or any(_RESERVED.fullmatch(part) or part.endswith((" ", ".")) for part in parts)
    )


def inside(folder: Path, name: str) -> Path:
    """The path of ``name`` in ``folder``, for a name that a service gave.

    Raises:
        VerificationError: the name is not :func:`safe`, or leads through a link.
    """
    path = folder.joinpath(*name.split("/")) if safe(name) else folder
    steps = [path, *path.parents][: name.count("/") + 1]
    if path == folder or any(step.is_symlink() for step in steps):
        raise VerificationError(f"The name {ascii(name)} is not safe to write below {folder}.")
    return path
