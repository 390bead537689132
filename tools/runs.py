"""The ledger: what was pushed, what became of it, and what it scored.

``runs/<slug>/v<N>/`` holds one version of a kernel. Each part has its own file and one writer, so
that commands in two terminals do not undo each other: ``push.json`` never changes, ``status.json``
is what was seen last, ``outputs.json`` what was fetched, ``submissions.jsonl`` only grows.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools import console
from tools.errors import UserError
from tools.files import parse_json, write_whole
from tools.settings import project_folder

ENDED = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED")  # statuses after which nothing changes
SESSION_SECONDS = 24 * 3600  # Kaggle's longest session of 12 hours, and as many in its queue
FRESH_SECONDS = 600  # a new version may be unknown to Kaggle's status for so long
_KERNEL = r"[A-Za-z0-9_-]+/[a-z0-9][a-z0-9-]+"
_REFERENCE = re.compile(r"((?P<kernel>([\w-]+/)?[\w-]+)/)?v?(?P<version>\d{1,9})/?", re.ASCII)

Noted = tuple[Path, dict[str, Any]]  # a submission in the ledger: the folder that notes it, and it


@dataclass(frozen=True)
class Run:
    """One version of a kernel, and the folder that holds what is known of it."""

    folder: Path
    kernel: str
    version: int
    push: dict[str, Any]
    status: dict[str, Any]
    outputs: dict[str, Any]
    submissions: list[dict[str, Any]]

    def __str__(self) -> str:
        """The reference, as ``ada/pix2pix v3``."""
        return f"{self.kernel} v{self.version}"

    @property
    def slug(self) -> str:
        """The kernel's name without its owner."""
        return self.kernel.split("/")[1]

    @property
    def short(self) -> str:
        """What commands take, as ``pix2pix/v3``."""
        return f"{self.slug}/v{self.version}"

    @property
    def log_name(self) -> str:
        """The name of its log among its outputs."""
        return f"{self.slug}.log"

    @property
    def outputs_folder(self) -> Path:
        """Where its outputs go if no other folder is named."""
        return self.folder / "outputs"

    @property
    def fetched_to(self) -> Path:
        """Where its outputs were fetched to last; :attr:`outputs_folder` if they never were."""
        told = self.outputs.get("folder")
        return self.folder / told if isinstance(told, str) else self.outputs_folder

    @property
    def pushed_at(self) -> str:
        """When it was pushed; empty where the ledger does not say."""
        told = self.push.get("pushed_at")
        return told if isinstance(told, str) else ""

    @property
    def is_fresh(self) -> bool:
        """Whether it was pushed to run so lately that Kaggle may not show it yet."""
        return bool(self.push.get("run", True)) and self._age < FRESH_SECONDS

    @property
    def may_run(self) -> bool:
        """Whether it was pushed to run, within the longest session, and not seen to end."""
        ended = self.status.get("status") in ENDED
        return not ended and bool(self.push.get("run", True)) and self._age < SESSION_SECONDS

    @property
    def _age(self) -> float:
        """Seconds since it was pushed; infinite where the ledger does not say."""
        try:
            pushed = datetime.fromisoformat(self.pushed_at)
            return (datetime.now(UTC) - pushed).total_seconds()
        except (ValueError, TypeError):
            return math.inf

    @property
    def url(self) -> str:
        """The kernel's page."""
        return self.push.get("url") or page(self.kernel)


def page(kernel: str) -> str:
    """The page of a kernel on Kaggle."""
    return f"https://www.kaggle.com/code/{kernel}"


def now() -> str:
    """The time, UTC, as the ledger writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def root() -> Path:
    """The ledger's folder."""
    return project_folder() / "runs"


def record_push(kernel: str, version: int, **facts: Any) -> Run:
    """Enter a version that Kaggle has taken.

    Args:
        kernel: ``owner/slug``.
        version: the number that Kaggle gave.
        facts: url, asked, script_sha256, config, overrides, accelerator and the like.
    """
    if not re.fullmatch(_KERNEL, kernel) or version < 1:
        raise UserError(f"{kernel!r} v{version} is no kernel reference.")
    folder = _place(kernel, version)
    if (folder / "push.json").exists():  # of a kernel that was made again, or of another owner
        aside = folder.with_name(f"earlier-{folder.name}-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}")
        folder.rename(aside)
        console.note(f"What was known of another v{version} of that name is in {aside} now.")
    push = {"kernel": kernel, "version": version, "pushed_at": now(), **facts}
    _write(folder / "push.json", push)
    return read(folder)


def vacant(reference: str) -> tuple[str, int]:
    """Kernel and version of ``owner/slug/vN``, of which there is no run yet.

    Raises:
        UserError: it is no such name, or its place in the ledger is taken.
    """
    match = _REFERENCE.fullmatch(reference)
    kernel = (match and match["kernel"]) or ""
    if not match or not re.fullmatch(_KERNEL, kernel):
        raise UserError(f"{reference!r} names no version.", "Write it as owner/slug/v3.")
    folder = _place(kernel, int(match["version"]))
    if (folder / "push.json").exists():
        raise UserError(f"The ledger has {read(folder)} already, in {folder}.")
    return kernel, int(match["version"])


def record_status(run: Run, status: str, failure: str = "") -> None:
    """Note what a run was seen doing."""
    _write(run.folder / "status.json", {"status": status, "failure": failure, "at": now()})


def record_outputs(run: Run, folder: Path | None = None, **facts: Any) -> Run:
    """Note what was fetched: the folder that holds it, files, metrics, whether it is complete."""
    if folder is not None:
        # Relative to what is moved along with it when the project is.
        within = folder.is_relative_to(run.folder)
        facts["folder"] = str(folder.relative_to(run.folder) if within else folder)
    _write(run.folder / "outputs.json", {"fetched_at": now(), **facts})
    return read(run.folder)


def record_submission(folder: Path, submission: dict[str, Any]) -> None:
    """Add a submission, or news of one: the last line with a ``ref`` counts.

    Args:
        folder: a run's folder; :func:`root` for what no run has made.
        submission: needs ``ref``; file, message, status, score, rank and the like.
    """
    line = json.dumps({"at": now(), **submission}, ensure_ascii=False) + "\n"
    path = folder / "submissions.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.seek(max(0, file.tell() - 1))
            torn = file.read() not in (b"", b"\n")  # by a power cut
            file.write((torn * "\n" + line).encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as failure:
        raise UserError(f"{path} cannot be written: {failure.strerror}.") from failure


def submissions(folder: Path) -> list[dict[str, Any]]:
    """The submissions noted in a folder, oldest first, with their latest news.

    One without a status is taken to wait for its score: Kaggle is asked, nothing is sent twice.
    """
    found: dict[Any, dict[str, Any]] = {}
    path = folder / "submissions.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in lines.split("\n"):  # splitlines() would also cut at U+2028, which JSON may hold
        try:
            entry = parse_json(line)
            found[entry["ref"]] = found.get(entry["ref"], {}) | entry
        except (ValueError, KeyError, TypeError):
            continue  # a torn line
    for entry in found.values():
        for name, otherwise in (("at", ""), ("status", "PENDING")):
            if not isinstance(entry.get(name), str):
                entry[name] = otherwise
        entry["score"] = number(entry, "score")
    return list(found.values())


def every_submission() -> Iterator[Noted]:
    """All submissions, those that no run has made first."""
    for folder in (root(), *(path.parent for path in root().glob("*/*/submissions.jsonl"))):
        for entry in submissions(folder):
            yield folder, entry


def number(found: Any, *names: str) -> float | None:
    """A finite number deep in a record from outside; None if it is not there."""
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    # Compared before it is converted: an integer of JSON may have more digits than any float.
    return float(found) if is_number and abs(found) <= sys.float_info.max else None


def read(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        UserError: the folder holds no valid entry.
    """
    anew = f"tools runs --add OWNER/{folder.parent.name}/{folder.name}"
    push = _read(folder / "push.json", anew)
    kernel, version = push.get("kernel"), push.get("version")
    settings = [push.get(name) for name in ("config", "overrides", "set")]
    if (
        not isinstance(kernel, str)
        or not re.fullmatch(_KERNEL, kernel)
        or type(version) is not int
        or not all(isinstance(found, dict | None) for found in settings)
    ):
        raise _damaged(folder / "push.json", "is no entry of a pushed kernel", anew)
    anew = f"tools status {folder.parent.name}/{folder.name}"
    status = _read(folder / "status.json", anew)
    if not all(isinstance(status.get(name, ""), str) for name in ("status", "failure", "at")):
        raise _damaged(folder / "status.json", "holds no status", anew)
    anew = f"tools fetch-outputs {folder.parent.name}/{folder.name}"
    outputs = _read(folder / "outputs.json", anew)
    files = outputs.get("files", [])
    if not isinstance(files, list) or not all(
        isinstance(file, dict) and isinstance(file.get("name", ""), str) for file in files
    ):
        raise _damaged(folder / "outputs.json", "holds no list of files", anew)
    return Run(folder, kernel, version, push, status, outputs, submissions(folder))


def every() -> list[Run]:
    """All runs, newest first."""
    found = [read(path.parent) for path in root().glob("*/v*/push.json")]
    return sorted(found, key=lambda run: (run.pushed_at, run.version), reverse=True)


def is_reference(text: str) -> bool:
    """Whether a text has the form in which a person names a run."""
    return bool(_REFERENCE.fullmatch(text))


def find(reference: str | None = None) -> Run:
    """The run that a person means: the newest, ``3`` or ``v3``, ``slug/v3``, ``owner/slug/v3``.

    The newest is of those that were pushed to run, if there is one.

    Raises:
        UserError: there is no such run, or there are several; the message lists them.
    """
    known = every()
    if not known:
        raise UserError(f"There is no run in {root()} yet.", "Push one: tools push-kernel")
    newest = next((run for run in known if run.push.get("run", True)), known[0])
    if reference is None:
        return newest
    if match := _REFERENCE.fullmatch(reference):
        same = [run for run in known if run.version == int(match["version"])]
        if kernel := match["kernel"]:
            same = [run for run in same if kernel in (run.slug, run.kernel)]
        if len(same) > 1:
            names = " or ".join(run.short for run in same)
            raise UserError(f"{reference!r} may be several runs.", f"Name one: {names}.")
        if same:
            return same[0]
    names_known = ", ".join(run.short for run in known[:5]) + (", …" if len(known) > 5 else "")
    raise UserError(f"There is no run {reference!r} in the ledger.", f"There are {names_known}.")


def _place(kernel: str, version: int) -> Path:
    return root() / kernel.split("/")[1] / f"v{version}"


def _read(path: Path, anew: str) -> dict[str, Any]:
    """The object in a file, nothing without one; ``anew`` is the command that makes the file."""
    if not path.is_file():
        return {}
    try:
        entry = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as failure:
        raise _damaged(path, f"cannot be read: {failure}", anew) from failure
    if not isinstance(entry, dict):
        raise _damaged(path, "holds no JSON object", anew)
    return entry


def _damaged(path: Path, problem: str, anew: str) -> UserError:
    return UserError(f"{path} {problem}.", f"Repair it, or delete it and make it anew: {anew}")


def _write(path: Path, entry: dict[str, Any]) -> None:
    write_whole(path, json.dumps(entry, indent=2, ensure_ascii=False) + "\n")
