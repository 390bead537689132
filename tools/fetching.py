"""Fetch a version's files to a folder, and believe none of them before it is checked.

``run.json``, which the kernel writes last, holds the size and the SHA-256 of every file. A file
gets its name only after it was compared with these; a second call fetches what is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tools import console, manifest, runs, transfer, verify
from tools.errors import NetworkError, RefusedError, UserError, VerificationError
from tools.files import Names, inside, safe, sha256, write_whole
from tools.kaggle_kernels import Kernels, State
from tools.kept import matches
from tools.runs import Run
from tools.sessions import keep_log

PARTIAL = "PARTIAL.txt"


@dataclass
class Listing:
    """What Kaggle lists of a version: addresses and sizes by safe name, and the unsafe names."""

    addresses: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def list_outputs(kernels: Kernels, run: Run, sizes: bool = True) -> Listing:
    """Every page of a version's listing; names that are unsafe or clash are set aside."""
    found, names = Listing(), Names(manifest.NAME, PARTIAL, run.log_name)
    for name, address in kernels.outputs(run.kernel, run.version):
        if not safe(name) or names.add(name):
            found.refused.append(name)
        else:
            found.addresses[name] = address
    if sizes:
        with contextlib.suppress(RefusedError, NetworkError):  # the run's own record decides
            told = kernels.file_sizes(run.kernel, run.version)
            found.sizes = {name: told[name] for name in found.addresses if name in told}
    return found


def fetch(
    kernels: Kernels,
    run: Run,
    state: State,
    folder: Path,
    include: Sequence[str] = (),
    overwrite: bool = False,
) -> tuple[list[dict[str, Any]], VerificationError | None]:
    """Fetch the outputs that match ``include`` (all if empty), and the log, to ``folder``.

    Returns:
        The ledger's entries of what is in ``folder`` now, and what was wrong with other files.

    Raises:
        UserError: another file has one of the names in ``folder``, or nothing matches; nothing was
            fetched.
        VerificationError: there is no believable record; nothing was fetched.
    """
    fetching = _Fetching(kernels, run, state, folder)
    log = keep_log(run, kernels.log(run.kernel, run.version))
    wanted = fetching.wanted(include)
    if not overwrite and folder != run.outputs_folder:
        fetching.refuse_foreign(wanted, log)
    if state.status != "COMPLETE":
        write_whole(folder / PARTIAL, f"{run}: {state.status} {state.failure}\n")
    fetching.fetch_all(wanted)
    fetching.add_log(log)
    failure = fetching.verdict(partly=bool(include))
    if state.status == "COMPLETE" and _is_mark(folder / PARTIAL, run):
        (folder / PARTIAL).unlink()  # of a failed version that lay here
    stopped = fetching.record and fetching.record.get("status") == "stopped"
    if stopped and runs.find().folder == run.folder:  # --resume takes the newest
        notebook = " --notebook" if (run.folder / "kernel.ipynb").is_file() else ""
        again = f"tools push-kernel{notebook} --resume"
        console.note(f"Training was stopped early; go on with it: {again}")
    return _present(folder, fetching.known.values()), failure


def _present(folder: Path, entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if inside(folder, entry["name"]).is_file()]


def _is_mark(path: Path, run: Run) -> bool:
    """Whether a file is what marks a failed version of the run's kernel."""
    return path.is_file() and path.read_bytes().startswith(f"{run.kernel} v".encode())


def _foreign(path: Path) -> UserError:
    return UserError(
        f"{path} is another file than this run's.",
        "Choose another folder with --to, or replace it with --overwrite.",
    )


class _Fetching:
    """One version's files on their way to one folder.

    ``record`` is the run's own; None where it left none. ``known`` holds the ledger's entries, by
    name, of what is in the folder, and ``problems`` what is wrong with the rest.
    """

    def __init__(self, kernels: Kernels, run: Run, state: State, folder: Path) -> None:
        self._kernels, self._run, self._state, self._folder = kernels, run, state, folder
        self._listing = list_outputs(kernels, run)
        self._fresh = dict(self._listing.addresses)
        self.record = self._record()
        files = self.record["files"] if self.record else []
        self._entries = {entry["name"]: entry for entry in files}
        self.known = {entry["name"]: entry for entry in _known(run, folder)}
        self.problems: list[str] = []

    def _record(self) -> dict[str, Any] | None:
        """The run's own record, kept in the ledger."""
        path = self._run.folder / manifest.NAME
        if path.is_file():
            with contextlib.suppress(VerificationError):
                return manifest.read(path)
            path.unlink()
        if manifest.NAME not in self._fresh:
            return None
        self._download(manifest.NAME, path, manifest.read, lambda count: None)
        return manifest.read(path)

    def wanted(self, include: Sequence[str]) -> list[str]:
        """The listed files that match, the largest first and the record last.

        Raises:
            UserError: a complete run has none, nor a log that matches.
        """
        names, sizes = self._listing.addresses, self._listing.sizes
        wanted = [name for name in names if matches(name, include)]
        found = wanted or matches(self._run.log_name, include) or not names
        if self._state.status == "COMPLETE" and not found:
            raise UserError(
                f"No output of {self._run} matches {' or '.join(include)}.",
                f"tools fetch-outputs {self._run.short} --list",
            )
        return sorted(wanted, key=lambda name: (name == manifest.NAME, -sizes.get(name, 0)))

    def refuse_foreign(self, wanted: Iterable[str], log: str) -> None:
        """Refuse to replace files that did not come from this run, or were changed since."""
        run, ours = self._run, defaultdict[str, set[str]](set)
        for entry in (*run.outputs.get("files", []), *self._entries.values()):
            ours[entry["name"]].add(entry["sha256"])
        ours[run.log_name].add(hashlib.sha256(log.encode()).hexdigest())
        if self.record:
            ours[manifest.NAME].add(sha256(run.folder / manifest.NAME))
        for name in (*wanted, run.log_name):
            path = inside(self._folder, name)
            if path.exists() and not (path.is_file() and sha256(path) in ours[name]):
                raise _foreign(path)
        mark = self._folder / PARTIAL
        if self._state.status != "COMPLETE" and mark.exists() and not _is_mark(mark, self._run):
            raise _foreign(mark)

    def fetch_all(self, wanted: Sequence[str]) -> None:
        """Fetch what is missing or differs; one that is not what it should be is a problem."""
        recorded, listed = self._entries, self._listing.sizes
        sizes = [recorded.get(name, {}).get("size") or listed.get(name, 0) for name in wanted]
        with console.transfer_bar() as bar:
            task = bar.add_task(str(self._run), total=sum(sizes) or None)
            for name in wanted:
                bar.update(task, description=name)
                try:
                    self.known[name] = self._fetch(name, partial(bar.advance, task))
                except VerificationError as failure:
                    self.known.pop(name, None)
                    self.problems.append(failure.message.rstrip("."))
                except BaseException:  # what came so far is this run's, and is gone on with
                    self._note(complete=False)
                    raise

    def add_log(self, log: str) -> None:
        """Keep the log beside the files, where the run did not write one of its name."""
        name = self._run.log_name
        if log and name not in self._listing.addresses:
            size, digest = verify.check(write_whole(self._folder / name, log), name)
            self.known[name] = {"name": name, "size": size, "sha256": digest, "verified": False}

    def verdict(self, partly: bool) -> VerificationError | None:
        """Note in the ledger what came, and say what is wrong; ``partly`` if not all was wanted."""
        missing = self._drop_unlisted()
        everything = {*self._entries, manifest.NAME} <= self.known.keys()
        self._note(complete=bool(self.record) and everything and not self.problems)
        if refused := self._listing.refused:
            names = ", ".join(map(ascii, refused[:5]))
            self.problems.append(f"Kaggle lists names that are not safe, or clash: {names}")
        if missing and not partly:
            names = ", ".join(missing[:5])
            self.problems.append(f"Kaggle does not list {names}, which the run wrote")
        if not self.record and self._state.status == "COMPLETE":
            self.problems.append(f"{self._run} left no {manifest.NAME}; its files are not verified")
        if not self.problems:
            return None
        return VerificationError(
            f"{'; '.join(self.problems)}.", f"Everything else is in {self._folder}."
        )

    def _drop_unlisted(self) -> list[str]:
        """The recorded files that are neither listed nor here, whole, from an earlier fetch."""
        missing = []
        for name, entry in self._entries.items():
            if name not in self._listing.addresses:
                if name not in self.known or not self._is_here(name, entry):
                    self.known.pop(name, None)
                    missing.append(name)
        return missing

    def _is_here(self, name: str, expected: dict[str, Any]) -> bool:
        path, digest = inside(self._folder, name), expected.get("sha256")
        size = expected.get("size")
        return bool(
            path.is_file() and digest and path.stat().st_size == size and sha256(path) == digest
        )

    def _note(self, complete: bool) -> None:
        run = self._run
        if not complete and run.outputs.get("complete") and run.fetched_to != self._folder:
            return  # the whole of it is elsewhere: that is what the ledger tells
        runs.record_outputs(
            run,
            folder=self._folder,
            status=self._state.status,
            complete=complete and self._state.status == "COMPLETE",
            files=list(self.known.values()),
            **manifest.summary(self.record),
        )

    def _fetch(self, name: str, advance: transfer.Advance) -> dict[str, Any]:
        """Fetch one file unless it is there already. Returns its entry for the ledger."""
        path = inside(self._folder, name)
        if name == manifest.NAME:
            write_whole(path, (self._run.folder / manifest.NAME).read_bytes())
            found = verify.check(path, name)
            return {"name": name, "size": found[0], "sha256": found[1], "verified": True}
        entry = self._entries.get(name)
        expected = entry or self.known.get(name) or {}
        if self._is_here(name, expected):
            advance(expected["size"])
            told = {key: expected[key] for key in ("size", "sha256")}
            return {"name": name, **told, "verified": entry is not None}
        size, digest = (entry["size"], entry["sha256"]) if entry else (None, None)
        found = (0, "")

        def check(part: Path) -> None:
            nonlocal found
            found = verify.check(part, name, size, digest)

        try:
            self._download(name, path, check, advance)
        except VerificationError:  # once more, from its beginning and a new address
            self._download(name, path, check, advance)
        return {"name": name, "size": found[0], "sha256": found[1], "verified": entry is not None}

    def _download(
        self,
        name: str,
        path: Path,
        check: Callable[[Path], object],
        advance: transfer.Advance,
    ) -> None:
        transfer.download(
            lambda: self._address(name),
            path,
            self._kernels.settings,
            label=name,
            check=check,
            advance=advance,
        )

    def _address(self, name: str) -> str:
        """An address; each is given once, and a new listing made for the next."""
        if name not in self._fresh:
            self._fresh = list_outputs(self._kernels, self._run, sizes=False).addresses
        try:
            return self._fresh.pop(name)
        except KeyError:
            raise RefusedError(f"Kaggle does not list {name} of {self._run} any more.") from None


def _known(run: Run, folder: Path) -> Iterable[dict[str, Any]]:
    """Entries of an earlier fetch into the same folder."""
    if run.fetched_to != folder:
        return []
    return _present(folder, run.outputs.get("files", []))
