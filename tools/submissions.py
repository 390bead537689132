"""``tools submissions``: what the team has submitted, and what it scored."""

from __future__ import annotations

import itertools
import os
from typing import Any

from tools import console, runs, settings
from tools.kaggle_client import Kaggle
from tools.kaggle_competitions import Competitions, Submission
from tools.yardsticks import Measures, ratios, yardsticks

LISTED = 200  # the newest


def show_submissions(json: bool) -> None:
    """Print Kaggle's list of the team's submissions, newest first, and what each was made by."""
    chosen = settings.load(settings.project_folder())
    competition = chosen.required_competition()
    seen = Competitions(Kaggle(chosen)).submissions(competition)
    measures, made_by = yardsticks(competition), _makers()
    rows = [_row(each, measures, made_by) for each in itertools.islice(seen, LISTED)]
    if json:
        console.print_json(rows)
        return
    if not rows:
        console.note(f"Nothing was submitted to {competition} yet. Submit a run: tools submit")
        return
    shown = {
        "submission": [str(row["ref"]) for row in rows],
        "made": [row["date"][:16].replace("T", " ") for row in rows],
        "public": [console.figure(row["score"], 5) for row in rows],
        "private": [console.figure(row["private_score"], 5) for row in rows],
        "/ harm.": [console.figure(row["ratio_to_harmonic"], 3) for row in rows],
        "/ report": [console.figure(row["ratio_to_report"], 3) for row in rows],
        "what": [_words(row) for row in rows],
    }
    told = {name: cells for name, cells in shown.items() if any(cells)}
    console.print_table(tuple(told), zip(*told.values(), strict=True), words=("what",))
    if next(seen, None):
        page = f"https://www.kaggle.com/competitions/{competition}/submissions"
        console.note(f"These are the newest {LISTED}; all of them are at {page}")


def _makers() -> dict[int, str]:
    """The run, or else the file, that the ledger names for each submission."""
    ledger, project = runs.root(), f"{settings.project_folder()}{os.sep}"
    found = {}
    for folder, entry in runs.every_submission():
        if folder == ledger:
            found[entry["ref"]] = console.plain(entry.get("file")).removeprefix(project)
        else:
            found[entry["ref"]] = folder.relative_to(ledger).as_posix()
    return found


def _row(seen: Submission, measures: Measures, made_by: dict[int, str]) -> dict[str, Any]:
    return {
        "ref": seen.ref,
        "date": seen.date,
        "status": seen.status,
        "score": seen.score,
        "private_score": seen.private_score,
        **ratios(seen.score, measures),
        "made_by": made_by.get(seen.ref, seen.file_name),
        "message": seen.description,
        "error": seen.error,
    }


def _words(row: dict[str, Any]) -> str:
    status = "" if row["status"] == "COMPLETE" else f"{row['status']} {row['error']}".strip()
    return "; ".join(filter(None, (status, row["made_by"], row["message"])))
