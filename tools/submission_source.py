"""Which file a person means as a submission, what wrote it, and which test set it fills."""

from __future__ import annotations

from pathlib import Path

from tools import console, runs, settings, submission_file
from tools.errors import UserError, VerificationError
from tools.files import sha256
from tools.holes import Holes, find_masked_info, read_holes

FILE = "submission.csv.gz"


def named(what: str | None) -> tuple[runs.Run | None, Path]:
    """The file that a person means by ``[RUN|FILE]``, and the run that wrote it if one is meant.

    Raises:
        UserError: there is no such run or file, or what it names is no submission.
        VerificationError: what lies in the run's place is not what the run wrote.
    """
    by_path = what and (Path(what).is_file() or not runs.is_reference(what))
    writer = None if by_path else runs.find(what)
    file = _written(writer) if writer else Path(str(what))
    submission_file.require(file)
    return writer, file


def holes_to_fill(project: Path, chosen: settings.Settings, data: Path | None) -> Holes:
    """The test set's holes: from ``data``, or from where ``tools fetch-data`` put the data."""
    folder = data if data is not None else chosen.data_folder(project)
    return read_holes(find_masked_info(folder))


def _written(run: runs.Run) -> Path:
    """The submission that a run wrote, as it was fetched."""
    path = run.fetched_to / FILE
    fetch = f"tools fetch-outputs {run.short}"
    if not path.is_file():
        raise UserError(f"There is no {path} yet.", f"Run `{fetch}`, or name a file.")
    wrote = {e.get("sha256") for e in run.outputs.get("files", []) if e.get("name") == FILE}
    if wrote and sha256(path) not in wrote:
        raise VerificationError(
            f"{path} is not what {run} wrote.",
            f"Fetch that again: {fetch}; or name the file itself to take it as it is.",
        )
    return path


def warn(maker: runs.Run, chosen: settings.Settings) -> None:
    """Say what may make a run's submission worse than its model."""
    if maker.outputs.get("status", "COMPLETE") != "COMPLETE":
        console.note(f"{maker} did not complete: its submission may be of an unfinished model")
    wrote = maker.outputs.get("submission")
    if not isinstance(wrote, dict):
        return
    for name in ("channel_order", "value_scale"):
        if (found := wrote.get(name, wanted := getattr(chosen, name))) != wanted:
            found = console.plain(found)
            console.note(f"{maker} wrote it with {name} = {found}; the setting is {wanted}")
