"""What of a run lies on this machine, verified: what may go on to where it is kept."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tools import manifest, verify
from tools.errors import UserError, VerificationError
from tools.files import inside
from tools.remote import OutputFile
from tools.runs import Run


def verified_files(run: Run) -> list[OutputFile]:
    """The verified files of a run and its log, checked once more; ``run.json`` is last.

    Raises:
        UserError: the run was not fetched as a whole, or it failed.
        VerificationError: a file has changed since.
    """
    if not run.outputs.get("complete"):
        raise UserError(
            f"The outputs of {run} are not here as a whole.",
            f"Fetch them: tools fetch-outputs {run.short}",
        )
    again = f"Fetch it again: tools fetch-outputs {run.short}"
    found = []
    for entry in run.outputs["files"]:
        if not entry["verified"] and entry["name"] != run.log_name:
            continue
        path = inside(run.fetched_to, entry["name"])
        if not path.is_file():
            raise VerificationError(f"{path} is not there any more.", again)
        try:
            verify.check(path, entry["name"], entry["size"], entry["sha256"])
        except VerificationError as changed:
            raise VerificationError(changed.message, again) from None
        found.append(_output(run.fetched_to, entry))
    return sorted(found, key=lambda file: file.name == manifest.NAME)


def matching(
    run: Run, folder: Path, entries: Iterable[dict[str, Any]], patterns: Sequence[str]
) -> list[OutputFile]:
    """What goes on to a destination: the verified files and the log, or what was asked for of them.

    A part goes without ``run.json``: where that lies, the run is complete.
    """
    if not patterns:
        return verified_files(run)
    going = [
        _output(folder, entry)
        for entry in entries
        if (entry["verified"] or entry["name"] == run.log_name)
        and entry["name"] != manifest.NAME
        and matches(entry["name"], patterns)
    ]
    if not going:
        raise UserError(
            f"Nothing of {run} that matches {' or '.join(patterns)} goes to a destination.",
            f"{manifest.NAME} goes with the whole run alone.",
        )
    return going


def matches(name: str, include: Sequence[str]) -> bool:
    """Whether a name, or its last part, fits one of the patterns; each does if there are none."""
    leaf = name.rpartition("/")[2]
    return not include or any(fnmatch.fnmatch(name, p) or fnmatch.fnmatch(leaf, p) for p in include)


def _output(folder: Path, entry: dict[str, Any]) -> OutputFile:
    return OutputFile(folder / entry["name"], entry["name"], entry["size"], entry["sha256"])
