"""``tools fetch-data``: the competition's files, from Kaggle to a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import archive, console, settings, transfer
from tools.errors import UserError, VerificationError
from tools.files import alone, at_home
from tools.holes import find_masked_info, read_holes
from tools.kaggle_client import Kaggle
from tools.kaggle_competitions import Competitions
from tools.patience import BROKEN

LABEL = "The competition's archive"


@dataclass(frozen=True)
class Fetched:
    """What a folder holds now: ``files`` in all, ``written`` by this call, ``size`` in bytes."""

    folder: Path
    files: int
    written: int
    size: int


def run(to: str | None, as_json: bool) -> None:
    """Fetch what is missing of the competition's data, and remember where it is."""
    if to is not None and not to.strip():
        raise UserError("--to is empty.", "Name a folder, or leave it out.")
    project = settings.project_folder()
    chosen = settings.load(project)
    usual = chosen.data_folder(project)
    folder = at_home(Path(to)) if to is not None else usual
    competition = chosen.required_competition()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file.", "Name a folder with --to.")
    kaggle = Competitions(Kaggle(chosen))
    with alone(project / "runs" / "fetch-data.lock", "another `tools fetch-data` goes on: waiting"):
        fetched = fetch(lambda: kaggle.data_address(competition), folder, chosen)
    if to is not None and folder.resolve() != usual.resolve():
        kept, here = folder.resolve(), project.resolve()
        inside = kept.is_relative_to(here)
        settings.store(project, data=str(kept.relative_to(here) if inside else kept))
    if as_json:
        console.print_json({**vars(fetched), "folder": str(fetched.folder)})
    else:
        console.stdout.print(
            f"{fetched.files:,} files, {fetched.size / 1e6:,.1f} MB, in {fetched.folder}: "
            + (f"{fetched.written:,} new" if fetched.written else "nothing was missing"),
            markup=False,
        )
    try:
        read_holes(find_masked_info(folder))
    except UserError as failure:
        console.note(f"This is not the competition's usual data: {failure.message}")


def fetch(address: Callable[[], str], folder: Path, chosen: settings.Settings) -> Fetched:
    """Unpack what ``folder`` lacks of the archive at ``address``, a fresh one at each call.

    Raises:
        NetworkError: the storage could not be reached within the patience.
        VerificationError: the archive is damaged or hostile; its bad files are not written.
        UserError: the disk is too small.
    """
    with transfer.storage_session(chosen) as session:
        source = transfer.Source(session, address, chosen, LABEL)
        try:
            with archive.RemoteFile(_Archive(source).open_at, BROKEN) as remote:
                return _unpack(remote, folder)
        except _NoRanges:
            pass
    whole = transfer.download(address, folder / ".archive.zip", chosen, label=LABEL)
    try:
        with whole.open("rb") as file:
            return _unpack(file, folder)
    finally:
        whole.unlink()


def _unpack(file: Any, folder: Path) -> Fetched:
    with archive.open_archive(file) as opened, console.progress_bar() as bar:
        members = archive.members(opened, folder)
        task = bar.add_task("comparing", total=len(members), detail=str(folder))
        wanted = archive.missing(members)
        bar.update(task, description="unpacking", completed=len(members) - len(wanted))
        for _ in archive.unpack(opened, wanted, folder):
            bar.advance(task)
    size = sum(member.info.file_size for member in members)
    return Fetched(folder, len(members), len(wanted), size)


class _NoRanges(Exception):
    """The storage sends whole files only."""


class _Archive:
    """Opens the archive at an offset, always the same one."""

    def __init__(self, source: transfer.Source) -> None:
        self._source = source
        self._identity: str | None = None
        self._last = -1

    def open_at(self, offset: int) -> tuple[Any, int]:
        """A stream from ``offset`` on, and the archive's size in bytes.

        Raises:
            NetworkError: no byte came within the patience.
            VerificationError: it is another archive than the first time.
        """
        if offset != self._last:
            self._source.renew()
        else:
            self._source.pause()
        self._last = offset
        response = self._source.open(offset)
        start, total = transfer.span(response)
        if start != offset or total is None:
            response.close()
            raise _NoRanges
        identity = transfer.identity(response, total)
        if self._identity not in (None, identity):
            raise VerificationError(
                "The archive changed while it was being read.", "Run the command again."
            )
        self._identity = identity
        return response.raw, total
