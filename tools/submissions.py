"""``tools submissions``: what the team has submitted, and what it scored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tools import console, runs, settings
from tools.kaggle_client import Kaggle
from tools.kaggle_competitions import Competitions, Submission
from tools.runs import Noted
from tools.yardsticks import Measures, ratios, yardsticks


def show_submissions(as_json: bool) -> None:
    """Print Kaggle's list of the team's submissions, newest first, and what each was made by.

    What the ledger does not know yet of those that it holds is entered there.
    """
    chosen = settings.load(settings.project_folder())
    competition = chosen.required_competition()
    listed = list(Competitions(Kaggle(chosen)).submissions(competition))
    noted = {entry["ref"]: (folder, entry) for folder, entry in runs.every_submission()}
    for seen in listed:
        if seen.ref in noted:
            _note_news(*noted[seen.ref], seen)
    measures = yardsticks(competition)
    rows = [_row(seen, measures, _made_by(seen, noted)) for seen in listed]
    if as_json:
        console.print_json(rows)
        return
    if not rows:
        console.note(f"Nothing was submitted to {competition} yet. Submit a run: tools submit")
        return
    shown = {
        "submission": [str(row["ref"]) for row in rows],
        "made": [console.moment(row["date"]) for row in rows],
        "public": [console.figure(row["score"], 5) for row in rows],
        "private": [console.figure(row["private_score"], 5) for row in rows],
        "/ harm.": [console.figure(row["ratio_to_harmonic"], 3) for row in rows],
        "/ report": [console.figure(row["ratio_to_report"], 3) for row in rows],
        "what": [_words(row) for row in rows],
    }
    told = {name: cells for name, cells in shown.items() if any(cells)}
    console.print_table(tuple(told), zip(*told.values(), strict=True), words=("what",))


def _note_news(folder: Path, entry: dict[str, Any], seen: Submission) -> None:
    told = {name: value for name, value in seen.outcome.items() if value is not None}
    if any(entry.get(name) != value for name, value in told.items()):
        runs.record_submission(folder, {"ref": seen.ref, **told})


def _made_by(seen: Submission, noted: dict[int, Noted]) -> str:
    """The run that the ledger names for a submission, or else the file."""
    if seen.ref not in noted:
        return seen.file_name
    folder, entry = noted[seen.ref]
    if folder != runs.root():
        return folder.relative_to(runs.root()).as_posix()
    return console.plain(entry.get("file")).removeprefix(f"{settings.project_folder()}{os.sep}")


def _row(seen: Submission, measures: Measures, made_by: str) -> dict[str, Any]:
    return {
        "ref": seen.ref,
        "date": seen.date,
        **seen.outcome,
        **ratios(seen.score, measures),
        "made_by": made_by,
        "message": seen.description,
    }


def _words(row: dict[str, Any]) -> str:
    status = "" if row["status"] == "COMPLETE" else f"{row['status']} {row['error']}".strip()
    return "; ".join(filter(None, (status, row["made_by"], row["message"])))
