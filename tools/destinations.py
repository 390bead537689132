"""Where a run's files are kept: a folder, ``gs://bucket/prefix``, ``drive:FOLDER_ID/path``.

A file that is there with an equal checksum is not sent again, so the same command finishes what an
interrupted one began. What is sent counts as stored once the service's own checksum agrees.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

from rich.progress import Progress, TaskID

from tools import console, manifest
from tools.errors import ToolsError, UserError, VerificationError
from tools.files import at_home, let_be_read, sha256
from tools.remote import (
    RUN_AGAIN,
    CorruptedError,
    Destination,
    Moved,
    Origin,
    OutputFile,
    Stored,
    changed_meanwhile,
)

# In capitals it is no folder either; a single letter is a drive of Windows.
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)

WORKERS = 4
"""Files on the way at a time; each holds one chunk of 8 MiB in memory."""


class Delivery(NamedTuple):
    """What became of one file at one destination."""

    destination: str
    name: str
    size: int
    sha256: str
    where: str
    sent: bool


class LocalFolder:
    """A folder of this machine, or one that is mounted."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._folder = at_home(Path(address))
        self.place = os.path.realpath(self._folder)

    def check(self) -> str:
        """See that files can be written at the nearest folder that exists."""
        nearest = self._folder
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise UserError(f"{self.address}: {nearest} is no folder that can be written to.")
        return f"{self.address}: can write"

    def find(self, name: str) -> Stored | None:
        """Hash the file that lies there."""
        path = self._folder / name
        if not path.exists() and not path.is_symlink():
            return None
        if not path.is_file():
            raise UserError(f"{path} is not a file.", "Move it away, or choose another folder.")
        try:
            return self._stored(path)
        except OSError as failure:
            raise UserError(f"{path} cannot be read: {failure.strerror}.") from None

    def put(self, file: OutputFile, origin: Origin, there: Stored | None, moved: Moved) -> Stored:
        """Copy to a file of its own, read the copy back, then give it the name."""
        path = self._folder / file.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mine = f".{file.sha256[:16]}."
            _sweep(path.parent, mine)
            handle, name = tempfile.mkstemp(prefix=mine, suffix=".part", dir=path.parent)
            part = Path(name)
            try:
                with os.fdopen(handle, "wb") as target, file.path.open("rb") as source:
                    while block := source.read(1 << 20):
                        target.write(block)
                        moved(source.tell())
                    target.flush()
                    os.fsync(target.fileno())
                stored = self._stored(part)
                if not stored.holds(file):
                    raise CorruptedError
                let_be_read(part)
                if there is not None and self.find(file.name) == there:
                    os.replace(part, path)
                elif not _name(part, path) and not self._stored(path).holds(file):
                    raise changed_meanwhile(str(path))
            finally:
                part.unlink(missing_ok=True)
        except OSError as failure:
            raise UserError(
                f"{path} cannot be written: {failure.strerror}.", "Choose another folder."
            ) from None
        return dataclasses.replace(stored, where=str(path))

    def remove(self, stored: Stored) -> None:
        """Delete the file, if it is still the same one."""
        path = Path(stored.where)
        if path.is_file() and self._stored(path) == stored:
            path.unlink(missing_ok=True)

    @staticmethod
    def _stored(path: Path) -> Stored:
        digests = {"sha256": sha256(path)}
        return Stored(where=str(path), size=path.stat().st_size, digests=digests)


def _sweep(folder: Path, prefix: str) -> None:
    """Remove what uploads of the same file left that were killed a day ago or earlier."""
    for part in folder.glob(f"{prefix}*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > 24 * 3600:
                part.unlink()


def _name(part: Path, path: Path) -> bool:
    """Give ``part`` the name ``path``, unless another file has it."""
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError:  # a disk without hard links: for a moment another may come first
        if os.path.lexists(path):
            return False
        os.rename(part, path)
    return True


def expand(address: str, origin: Origin) -> str:
    """Put the run's slug and version in the place of ``{slug}`` and ``{version}``.

    Raises:
        UserError: for any other word in braces.
    """
    words = {"slug": origin.slug, "version": str(origin.version)}

    def word(found: re.Match[str]) -> str:
        if found[1] not in words:
            raise UserError(
                f"{address!r}: {found[0]} is unknown.", "There are {slug} and {version}."
            )
        return words[found[1]]

    return re.sub(r"\{([^{}]*)\}", word, address)


def connect(address: str, overwrite: bool = False) -> Destination:
    """Find the kind of destination by the beginning of its address, and sign in to it."""
    if address.startswith("gs://"):
        from tools.gcs import Bucket

        return Bucket(address, overwrite)
    if address.startswith("drive:"):
        from tools.drive import DriveFolder

        return DriveFolder(address)
    if _SCHEME.match(address) or not address.strip():
        raise UserError(
            f"{address!r} is no destination.",
            "There are gs://bucket/prefix, drive:FOLDER_ID and folders, which WSL has as /mnt/c/….",
        )
    return LocalFolder(address)


def check(address: str, overwrite: bool = False) -> str:
    """Sign in to a destination and ask for the permissions; moves no byte.

    Returns:
        Where it is, and as whom one writes there.
    """
    return connect(expand(address, Origin("owner/slug", 1)), overwrite).check()


def split(addresses: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Tell the one folder of this machine from the destinations elsewhere.

    Raises:
        UserError: there are several folders.
    """
    elsewhere = [address for address in addresses if _SCHEME.match(address) or not address.strip()]
    folders = [address for address in addresses if address not in elsewhere]
    if len(folders) > 1:
        raise UserError(f"--to names {len(folders)} folders: {', '.join(folders)}.", "Name one.")
    return Path(folders[0]) if folders else None, elsewhere


def ready(addresses: Iterable[str], origin: Origin, overwrite: bool = False) -> list[Destination]:
    """Sign in to every destination and check its permissions, before any byte moves.

    Raises:
        ToolsError: of the first destination that is not ready.
    """
    found: dict[str, Destination] = {}
    for address in addresses:
        destination = connect(expand(address, origin), overwrite)
        found.setdefault(destination.place, destination)
    for destination in found.values():
        console.note(destination.check())
    return list(found.values())


def deliver(
    file: OutputFile,
    origin: Origin,
    destination: Destination,
    overwrite: bool = False,
    moved: Moved = lambda _: None,
) -> Delivery:
    """Bring one file to one destination, once, and prove it.

    Raises:
        UserError: another file lies there under that name.
        VerificationError: it arrived with other bytes, twice; nothing of it was left there.
    """

    def done(stored: Stored, sent: bool) -> Delivery:
        moved(file.size)
        return Delivery(destination.address, file.name, file.size, file.sha256, stored.where, sent)

    there = destination.find(file.name)
    if there and there.holds(file):
        return done(there, sent=False)
    if there and not overwrite and not there.is_broken(file):
        raise UserError(
            f"{there.where} ({there.size:,} bytes) is another file than {file.path}"
            f" ({file.size:,} bytes).",
            "Use --overwrite to replace it, or put {version} into the destination.",
        )
    file.digests  # a local file that has changed is found before anything is sent  # noqa: B018
    for _ in range(2):
        try:
            stored = destination.put(file, origin, there, moved)
        except CorruptedError:
            continue
        if stored.holds(file):
            return done(stored, sent=True)
        destination.remove(stored)
        there = None
    raise VerificationError(
        f"{destination.address}: {file.name} arrived with other bytes than were sent, twice;"
        " what arrived was removed.",
        "Try another network: something on the way changes the data.",
    )


def upload(
    files: Sequence[OutputFile],
    origin: Origin,
    destinations: Sequence[Destination],
    overwrite: bool = False,
) -> list[Delivery]:
    """Bring every file to every destination, several at once, ``run.json`` last.

    A destination that fails is given up; the others get everything.

    Raises:
        ToolsError: that of the first destination that failed; the others are printed.
    """
    failures: dict[str, ToolsError] = {}
    deliveries: list[Delivery] = []
    total = sum(file.size for file in files) * len(destinations)
    with (
        console.way_back(f"Stopped. {RUN_AGAIN}"),
        console.transfer_bar() as bar,
        ThreadPool(WORKERS) as pool,
    ):
        whole = bar.add_task("in total", total=total)

        def attempt(job: tuple[OutputFile, Destination]) -> Delivery | None:
            file, destination = job
            if destination.address in failures:
                return None
            title = f"{file.name} → {destination.address}" if len(destinations) > 1 else file.name
            with _row(bar, whole, title, file.size) as moved:
                try:
                    return deliver(file, origin, destination, overwrite, moved)
                except ToolsError as failure:
                    failures.setdefault(destination.address, failure)
                    return None

        for last in (False, True):
            wave = [
                (file, destination)
                for file in files
                if (file.name == manifest.NAME) is last
                for destination in destinations
            ]
            under_way = pool.map_async(attempt, wave, chunksize=1)
            while not under_way.ready():
                under_way.wait(0.5)  # without a limit, Windows would not let ctrl-C through
            deliveries += filter(None, under_way.get())
    if failures:
        raise _together([failures.get(goal.address) for goal in destinations])
    return deliveries


def show(deliveries: Sequence[Delivery], title: str) -> None:
    """Print where each file is now."""
    console.print_table(
        ("file", "bytes", "", "where"),
        [(d.name, f"{d.size:,}", "sent" if d.sent else "was there", d.where) for d in deliveries],
        title=title,
    )


@contextlib.contextmanager
def _row(bar: Progress, whole: TaskID, title: str, size: int) -> Iterator[Moved]:
    """One file's row for as long as it is on the way."""
    row = bar.add_task(title, total=size)
    so_far = 0

    def moved(position: int) -> None:
        nonlocal so_far
        bar.update(row, completed=position)
        bar.advance(whole, position - so_far)
        so_far = position

    try:
        yield moved
    finally:
        bar.remove_task(row)


def _together(failures: Sequence[ToolsError | None]) -> ToolsError:
    """One failure for all, of the kind of the first; the others are told before it."""
    first, *others = filter(None, failures)
    if not others:
        return first
    for other in others:
        console.error(str(other))
    number = 1 + len(others)
    first.message = f"{number} of {len(failures)} destinations failed. {first.message}"
    return first
