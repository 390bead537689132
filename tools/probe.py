"""``tools probe``: find out which channel order and value scale the competition's truth has.

The harmonic fill is written in each and submitted; the scores tell. It needs no GPU, and settles
what no training could make up for.
"""

from __future__ import annotations

import contextlib
import itertools
import shlex
import sys
from pathlib import Path
from typing import Any

import typer

from tools import console, runs, settings, submission_file
from tools.errors import RefusedError, UserError, VerificationError
from tools.files import alone
from tools.holes import Holes
from tools.local_run import run_kernel
from tools.submission_source import FILE, holes_to_fill
from tools.submitter import Candidate, Submitter

ONCE_MORE = "The same command submits it once more."
WAYS = tuple(itertools.product(("bgr", "rgb"), ("unit", "minmax")))

Way = tuple[str, str]


def run(data: Path | None, yes: bool, timeout: float, as_json: bool) -> None:
    """Ask, write the fills that are not scored yet, submit them, and store which scored best."""
    project = settings.project_folder()
    chosen = settings.load(project)
    folder = data if data is not None else chosen.data_folder(project)
    holes = holes_to_fill(project, chosen, data)
    command = ["tools", "probe", *(["--data", str(data)] if data is not None else [])]
    submitter = Submitter(chosen, timeout, f"Go on with: {shlex.join(command)}", ONCE_MORE)
    with _alone():
        known = _scored(submitter)
        unsent = [way for way in WAYS if way not in known]
        today = unsent[: submitter.require_allowance()] if unsent else []
    if today and not yes:
        _ask(len(today), chosen.competition)  # nobody else waits for the answer
    with _alone():
        known = _scored(submitter)  # another may have submitted meanwhile
        files = {way: _write(folder, holes, way) for way in today if way not in known}
        for way, file in files.items():
            notes = {"channel_order": way[0], "value_scale": way[1]}
            message = f"harmonic fill, {way[0]}, {way[1]}"
            candidate = Candidate(file, message, runs.root(), None, {"probe": notes})
            known[way] = submitter.submit(candidate, again=True)
        if len(known) < len(WAYS):
            raise RefusedError(
                f"{len(known)} of {len(WAYS)} fills are scored, and no submission is left today.",
                "The same command goes on with the others after 0:00 UTC.",
            )
        best = min(known, key=lambda way: _score(known[way]))
        path = settings.store(project, channel_order=best[0], value_scale=best[1])
    _report(known, best, as_json)
    console.note(f"channel_order = {best[0]} and value_scale = {best[1]} are set in {path}")


def _alone() -> contextlib.AbstractContextManager[None]:
    """What is known stays true until the four are submitted."""
    waiting = "another `tools probe` goes on: waiting until it has ended"
    return alone(runs.root() / "probe.lock", waiting)


def _scored(submitter: Submitter) -> dict[Way, dict[str, Any]]:
    """The probes that Kaggle has, once all of them are scored."""
    submitter.settle()
    known = _known(submitter.competition)
    for way, entry in known.items():
        if entry["status"] == "PENDING":
            known[way] = submitter.wait_for_score(runs.root(), entry)
    return known


def _known(competition: str) -> dict[Way, dict[str, Any]]:
    """The latest probe of each way in the ledger, but for those that Kaggle could not score."""
    found = {}
    for entry in runs.submissions(runs.root()):
        notes = entry.get("probe")
        if isinstance(notes, dict) and entry.get("competition") == competition:
            found[notes.get("channel_order"), notes.get("value_scale")] = entry
    return {
        way: entry for way, entry in found.items() if way in WAYS and entry["status"] != "ERROR"
    }


def _write(data: Path, holes: Holes, way: Way) -> submission_file.CheckedFile:
    """The harmonic fill as a submission's file, by the kernel's own code; once for all days."""
    out = runs.root() / "probe" / "-".join(way)
    with contextlib.suppress(UserError, VerificationError):
        return submission_file.check(out / FILE, holes)
    console.note(f"writing the harmonic fill, {way[0]} and {way[1]}")
    fill = {"predictor": "harmonic", "channel_order": way[0], "value_scale": way[1]}
    run_kernel(fill | {"data": str(data), "out": str(out)}, out.with_name(f"{out.name}.log"))
    return submission_file.check(out / FILE, holes)


def _ask(count: int, competition: str) -> None:
    what = f"{'1 file' if count == 1 else f'{count} files'} to {competition} today"
    if not sys.stdin.isatty():
        raise UserError("There is nobody to ask whether to submit.", f"Add --yes to submit {what}.")
    try:
        agreed = typer.confirm(f"Submit {what}?", default=True, err=True)
    except typer.Abort:
        raise KeyboardInterrupt from None
    if not agreed:
        raise UserError("Nothing was submitted.")


def _score(entry: dict[str, Any]) -> float:
    if entry.get("score") is None:
        raise RefusedError(
            f"Kaggle shows no public score for submission {entry['ref']}.",
            "Set channel_order and value_scale in tools.toml by hand.",
        )
    return entry["score"]


def _report(known: dict[Way, dict[str, Any]], best: Way, as_json: bool) -> None:
    if as_json:
        way = {"channel_order": best[0], "value_scale": best[1]}
        console.print_json({"best": way, "submissions": list(known.values())})
        return
    lowest = _score(known[best])
    console.print_table(
        ("channel order", "value scale", "submission", "public score", "to the best"),
        (
            (*way, str(entry["ref"]), f"{_score(entry):.5f}", f"{_score(entry) / lowest:.3f}")
            for way, entry in sorted(known.items(), key=lambda item: _score(item[1]))
        ),
    )
