"""The kernel on this machine, on a small subset and with a narrow network: two minutes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools import console, datasets, runs
from tools.errors import UserError
from tools.files import alone
from tools.local_run import kernel_script, run_kernel
from tools.render import parse_settings
from tools.settings import load

FOLDER = Path("dry-run")
# Small enough for two cores; everything else is the preset's.
SETTINGS: dict[str, Any] = {
    "width": 24,
    "steps": 200,
    "log_every": 10,
    "validate_every": 50,
    "validation_per_class": 4,
}
LIMIT = 32  # images per class of a user's own dataset
PREDICTORS = {
    "zeros": "zeros",
    "mean": "mean colour",
    "harmonic": "harmonic fill",
    "model": "trained model",
}


def run_dry_run(
    data: Path | None,
    limit: int | None,
    steps: int | None,
    out: Path | None,
    preset: str,
    assignments: Sequence[str],
    as_json: bool,
) -> None:
    """Train on a small subset and print how each predictor scores.

    Raises:
        UserError: for settings of another form, or a mistake that the kernel names.
        RunFailedError: where the kernel fails.
    """
    kernel_script()
    chosen, own = load(), parse_settings(assignments)
    for name in ("data", "out"):
        if name in own:
            raise UserError(f"{name} is not for --set.", f"Give --{name}.")
    anew = out is None
    out = out or runs.root() / FOLDER / "run"
    if data is None:
        data, limit = datasets.sample_folder(), limit or 0
    settings = SETTINGS | {"preset": preset, "limit": LIMIT if limit is None else limit}
    settings |= {"channel_order": chosen.channel_order, "value_scale": chosen.value_scale}
    settings |= {} if steps is None else {"steps": steps}
    settings |= own | {"data": str(data), "out": str(out)}
    log, lock = (Path(os.path.abspath(out) + suffix) for suffix in (".log", ".lock"))
    waiting = f"another `tools dry-run` goes on in {out}: waiting until it has ended"
    with alone(lock, f"{waiting}; --out names another folder"):
        if anew:
            set_aside(out, log)
        result = run_kernel(settings, log)
        if as_json:
            console.print_json({"out": str(out), "log": str(log), **result})
        else:
            show(result, out)


def set_aside(out: Path, log: Path) -> None:
    """Make way for a run: the last one and its log, if it came to anything, become ``earlier``."""
    earlier = out.with_name("earlier")
    if any((out / name).exists() for name in ("checkpoint.npz", "run.json", "best.npz")):
        shutil.rmtree(earlier, ignore_errors=True)  # one is kept: this run may be a mistake
        out.rename(earlier)
        if log.exists():
            os.replace(log, f"{earlier}.log")
    shutil.rmtree(out, ignore_errors=True)
    log.unlink(missing_ok=True)


def show(result: dict[str, Any], out: Path) -> None:
    """Print the scores of a run, its submission and where its pictures are."""
    scores, ratios = result["metrics"]["hole_rmse"], result["metrics"]["ratio_to_harmonic"]
    rows = [
        (words, f"{scores[name]:.4f}", f"{ratios[name]:.3f}")
        for name, words in PREDICTORS.items()
        if name in scores
    ]
    if rows:
        count = result["pictures"]["validation"]
        title = f"RMSE over the holes of {count} held-out pictures"
        console.print_table(("fill", "RMSE", "/ harmonic"), rows, title=title)
    submission = out / result["submission"]["file"]
    size = submission.stat().st_size / 1e6
    console.note(f"trained for {result['step']} steps in {result['training_seconds']:.0f} s")
    console.note(f"submission: {submission}, {result['submission']['rows']:,} rows, {size:.1f} MB")
    pictures = ", ".join(sorted(picture.name for picture in out.glob("*.png")))
    console.note(f"pictures:   {out}: {pictures}")
