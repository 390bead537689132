"""The kernel on this machine, on a small subset: what a push would run, in two minutes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tools import console, datasets, runs
from tools.errors import RunFailedError, UserError
from tools.render import parse_settings
from tools.settings import load, project_folder

SCRIPT = Path("kernel/pix2pix.py")
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
PROGRESS = re.compile(r"^step (\d+)/(\d+) \| (.*)$")
PREDICTORS = {
    "zeros": "zeros",
    "mean": "mean colour",
    "harmonic": "harmonic fill",
    "model": "trained model",
}


def flags(settings: dict[str, Any]) -> list[str]:
    """Spell settings as the kernel's flags."""
    spelled = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            spelled.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            spelled.append(f"--{flag}={value}")
    return spelled


def kernel_script() -> Path:
    """The project's kernel.

    Raises:
        UserError: it is not there.
    """
    script = project_folder() / SCRIPT
    if not script.is_file():
        raise UserError(f"There is no {script}.", "Change to the project's folder.")
    return script


def run_kernel(settings: dict[str, Any], log: Path) -> dict[str, Any]:
    """Run the kernel as a program with a progress bar, and read its ``run.json``.

    Its output goes to ``log``. Ctrl-C reaches the kernel too: it saves its state and ends, and is
    listened to until then; a second one ends it at once.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, and the kernel has ended.
        UserError: for a mistake that the kernel names.
        RunFailedError: where it fails in another way.
    """
    command = [sys.executable, "-u", str(kernel_script()), *flags(settings)]
    log.parent.mkdir(parents=True, exist_ok=True)
    tail: deque[str] = deque(maxlen=5)
    with (
        _first_ctrl_c() as pressed,
        open(log, "w", encoding="utf-8", buffering=1) as copy,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as kernel,
        console.progress_bar() as bar,
    ):
        task = bar.add_task("starting", total=None, detail="")
        assert kernel.stdout
        told = False
        for line in kernel.stdout:
            if pressed.is_set() and not told:
                console.note("Stopping: the kernel saves its state; Ctrl-C again ends it at once.")
                told = True
            copy.write(line)
            tail.extend(filter(None, [line.strip()]))
            if match := PROGRESS.match(line):
                step, steps, detail = match.groups()
                bar.update(
                    task,
                    description="training",
                    completed=int(step),
                    total=int(steps),
                    detail=detail.rpartition(" | ")[0],
                )
            elif line.startswith(("predicting", "validation")):
                bar.update(task, description=line.split(" at ")[0].strip())
    record = Path(settings["out"]) / "run.json"
    result = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if pressed.is_set() and result.get("status") != "complete":
        raise KeyboardInterrupt
    if kernel.returncode:
        mistake = next((line for line in tail if line.startswith("error: ")), None)
        if mistake:
            raise UserError(mistake.removeprefix("error: "))
        raise RunFailedError(
            f"The kernel ended with code {kernel.returncode}: {tail[-1] if tail else 'no output'}.",
            f"Its output is in {log}.",
        )
    return result


@contextlib.contextmanager
def _first_ctrl_c() -> Iterator[threading.Event]:
    """Let the first Ctrl-C only set an event; a second one acts at once."""
    pressed, earlier = threading.Event(), signal.getsignal(signal.SIGINT)

    def note(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, earlier)
        pressed.set()

    if earlier is not signal.SIG_IGN:  # as it is for a job in the background
        signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, earlier)


def run_dry_run(
    data: Path | None,
    limit: int | None,
    steps: int | None,
    out: Path | None,
    preset: str,
    assignments: Sequence[str],
    json_: bool,
) -> None:
    """Train on a small subset and print how each predictor scores.

    Raises:
        UserError: for a mistake that the kernel names.
        RunFailedError: where the kernel fails.
    """
    kernel_script()
    chosen = load()
    if out is None:
        out, earlier = runs.root() / FOLDER / "run", runs.root() / FOLDER / "earlier"
        if any((out / name).exists() for name in ("checkpoint.npz", "run.json", "best.npz")):
            shutil.rmtree(earlier, ignore_errors=True)  # one is kept: this run may be a mistake
            out.rename(earlier)
        shutil.rmtree(out, ignore_errors=True)
    if data is None:
        data, limit = datasets.sample_folder(), limit or 0
    settings = SETTINGS | {"preset": preset, "limit": LIMIT if limit is None else limit}
    settings |= {"channel_order": chosen.channel_order, "value_scale": chosen.value_scale}
    settings |= {} if steps is None else {"steps": steps}
    settings |= parse_settings(assignments) | {"data": str(data), "out": str(out)}
    log = Path(os.path.abspath(out) + ".log")
    result = run_kernel(settings, log)
    if json_:
        console.print_json({"out": str(out), "log": str(log), **result})
    else:
        show(result, out)


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
