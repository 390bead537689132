"""``tools submit``: check a submission's file, have it sent once, and print its score."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from tools import console, runs, settings, submission_file
from tools.errors import UserError
from tools.submission_source import holes_to_fill, named, warn
from tools.submitter import Candidate, Submitter
from tools.yardsticks import REPORT_SCORE, ratios, yardsticks


def run(
    what: str | None,
    message: str,
    data: Path | None,
    code: bool,
    again: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Check a file, or what a run wrote, submit it, wait, and print the score."""
    project = settings.project_folder()
    chosen = settings.load(project)
    chosen.required_competition()
    if not message.strip():
        raise UserError("The message is empty.", "Say with --message what this submission is.")
    writer, file = named(what)
    if code and writer is None:
        raise UserError(f"--code submits what a run wrote, not {what}.", "Name a run instead.")
    holes = holes_to_fill(project, chosen, data)
    console.note(f"checking {file}")
    checked = submission_file.check(file, holes)
    console.note(f"{checked.rows:,} rows, all of them right")
    maker = writer or _maker(checked.sha256)
    if maker is not None:
        warn(maker, chosen)
    same = [writer.short, "--code"] if writer and code else [str(file)]
    command = ["tools", "submit", "--message", message, *same]
    command += ["--data", str(data)] if data is not None else []
    way_back = f"Wait on, and upload nothing, with: {shlex.join(command)}"
    submitter = Submitter(chosen, timeout, way_back)
    folder = maker.folder if maker is not None else runs.root()
    kernel = (maker.kernel, maker.version) if code and maker is not None else None
    entry = submitter.submit(Candidate(checked, message, folder, kernel, {}), again=again)
    entry |= ratios(entry["score"], yardsticks(entry["competition"]))
    if as_json:
        console.print_json(entry)
    else:
        _report(entry)


def _report(entry: dict[str, Any]) -> None:
    lines = [f"submission {entry['ref']} to {entry['competition']}"]
    lines.append(f"public score  {console.figure(entry['score'], 5) or 'none shown'}")
    if private := console.figure(entry.get("private_score"), 5):
        lines.append(f"private score  {private}")
    if ratio := console.figure(entry["ratio_to_harmonic"], 3):
        lines.append(f"ratio to the harmonic fill's  {ratio}")
    if ratio := console.figure(entry["ratio_to_report"], 3):
        lines.append(f"ratio to the report's {REPORT_SCORE}  {ratio}")
    if entry.get("rank"):
        lines.append(f"rank  {entry['rank']} of {entry['teams']}")
    console.stdout.print("\n".join(lines), markup=False)


def _maker(sha256: str) -> runs.Run | None:
    """The newest run that has written these very bytes."""
    for run in runs.every():
        if any(entry.get("sha256") == sha256 for entry in run.outputs.get("files", [])):
            return run
    return None
