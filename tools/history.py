"""The ledger as a table."""

from __future__ import annotations

from typing import Any

from tools import console, runs
from tools.runs import Run

OURS = ("resume_from", "time_budget", "require_gpu")  # what a push sets by itself


def show_runs(as_json: bool) -> None:
    """Print every run, newest first: status, what differs in its config, scores, outputs."""
    found = runs.every()
    rows = [_row(run, _before(run, found)) for run in found]
    if as_json:
        console.print_json(rows)
        return
    if not rows:
        console.note("No run yet. Push one: tools push-kernel")
        return
    console.print_table(
        ("run", "pushed", "RMSE", "/ harm.", "public", "status, outputs, config"),
        [
            (
                row["run"],
                console.moment(str(row["pushed_at"]))[5:],
                console.figure(row["hole_rmse"], 4),
                console.figure(row["ratio_to_harmonic"], 3),
                console.figure(row["leaderboard"], 5),
                _words(row),
            )
            for row in rows
        ],
        words=("status, outputs, config",),
    )


def _words(row: dict[str, Any]) -> str:
    changed = ", ".join(f"{name}={value}" for name, value in row["config"].items())
    return "; ".join(filter(None, (row["status"], row["outputs"], changed)))


def _before(run: Run, found: list[Run]) -> Run | None:
    """The next older version of the same kernel."""
    older = [other for other in found if other.kernel == run.kernel and other.version < run.version]
    return max(older, key=lambda other: other.version, default=None)


def _row(run: Run, before: Run | None) -> dict[str, Any]:
    predictor = str(_config(run).get("predictor", "model"))
    scores = [runs.number(submission, "score") for submission in run.submissions]
    return {
        "run": run.short,
        "kernel": run.kernel,
        "version": run.version,
        "url": run.url,
        "pushed_at": run.push.get("pushed_at"),
        "status": run.status.get("status", "pushed"),
        "config": _differences(run, before),
        "hole_rmse": runs.number(run.outputs, "metrics", "hole_rmse", predictor),
        "ratio_to_harmonic": runs.number(run.outputs, "metrics", "ratio_to_harmonic", predictor),
        "leaderboard": min((score for score in scores if score is not None), default=None),
        "outputs": _outputs(run),
        "folder": str(run.folder),
    }


def _config(run: Run) -> dict[str, Any]:
    return run.push.get("config") or run.push.get("overrides") or {}


def _differences(run: Run, before: Run | None) -> dict[str, Any]:
    """What a run changed against the version before it; the first one, against the kernel."""
    mine = _config(run)
    if before is None:
        return {**{n: mine[n] for n in ("preset",) if n in mine}, **(run.push.get("set") or {})}
    theirs, said = _config(before), run.push.get("set") or {}
    return {
        name: value
        for name, value in mine.items()
        if theirs.get(name) != value and (name in said or name not in OURS)
    }


def _outputs(run: Run) -> str:
    if not run.outputs:
        return ""
    files = run.outputs.get("files", [])
    count = len(files)
    if run.outputs.get("complete"):
        return f"{sum(bool(file.get('verified')) for file in files)} verified"
    partial = run.outputs.get("status") != "COMPLETE"
    return f"{count} of a failed run" if partial else f"{count}, not all"
