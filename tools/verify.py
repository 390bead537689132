"""Whether a file is what it should be: its size, its SHA-256, and the signature of its kind."""

from __future__ import annotations

from pathlib import Path

from tools.errors import VerificationError
from tools.files import sha256

HDF5 = b"\x89HDF\r\n\x1a\n"
SIGNATURES = {
    ".h5": HDF5,
    ".hdf5": HDF5,
    ".keras": b"PK\x03\x04",
    ".npz": b"PK\x03\x04",
    ".zip": b"PK\x03\x04",
    ".gz": b"\x1f\x8b",
    ".png": b"\x89PNG\r\n\x1a\n",
}


def check(
    path: Path, name: str, size: int | None = None, digest: str | None = None
) -> tuple[int, str]:
    """Check the file at ``path``, which is to become ``name``.

    Args:
        path: the file as it is now.
        name: decides what kind of file it has to be.
        size: bytes it should have, where that is known.
        digest: its SHA-256 in hexadecimal digits, where that is known.

    Returns:
        Its size and its SHA-256.

    Raises:
        VerificationError: it is something else; the message says in which way.
    """
    found = path.stat().st_size
    if size is not None and found != size:
        raise VerificationError(f"{name} has {found} bytes instead of {size}.")
    suffix = Path(name).suffix.lower()
    with path.open("rb") as file:
        head = file.read(64)
    if suffix in SIGNATURES and not head.startswith(SIGNATURES[suffix]):
        kind = "a web page or an error message" if head.lstrip()[:1] == b"<" else "something else"
        raise VerificationError(f"{name} is no {suffix} file but {kind}.")
    if suffix in (".h5", ".hdf5") and (end := _hdf5_end(head)) > found:
        raise VerificationError(f"{name} is cut off: it has {found} bytes of {end}.")
    actual = sha256(path)
    if digest is not None and actual != digest.lower():
        raise VerificationError(f"{name} has the SHA-256 {actual[:12]}… instead of {digest[:12]}….")
    return found, actual


def _hdf5_end(head: bytes) -> int:
    """The end-of-file address in an HDF5 superblock (format specification III.A), or 0."""
    if len(head) < 48:
        return 0
    version = head[8]
    offset = {0: 40, 1: 44, 2: 28, 3: 28}.get(version)
    width = head[13] if version < 2 else head[9]
    return int.from_bytes(head[offset : offset + 8], "little") if offset and width == 8 else 0
