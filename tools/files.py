"""Files written whole or not at all, and names from outside kept inside their folder."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path, PurePosixPath

from tools.errors import UserError, VerificationError

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write ``content`` to ``path`` through a temporary file beside it; text as UTF-8.

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
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as failure:
        raise UserError(f"{path} cannot be written: {failure.strerror}.") from failure
    return path


def inside(folder: Path, name: str) -> Path:
    """The path of ``name`` in ``folder``, for a name that a service gave.

    Raises:
        VerificationError: the name is empty, absolute, leads outside, follows a link, or means
            something else on another system.
    """
    pure = PurePosixPath(name)
    parts = name.split("/")
    refused = (
        not name
        or pure.is_absolute()
        or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)
        or any(character in '\\:*?"<>|' or not character.isprintable() for character in name)
        or any(_RESERVED.fullmatch(part) or part.endswith((" ", ".")) for part in parts)
    )
    path = folder.joinpath(*parts) if not refused else folder
    if not refused:
        steps = [path, *path.parents][: len(parts)]
        refused = any(step.is_symlink() for step in steps)
    if refused:
        raise VerificationError(f"The name {ascii(name)} is not safe to write below {folder}.")
    return path
