"""The kernel as a program on this machine: its flags, its progress as a bar, its end."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools import console, logs, metadata
from tools.errors import RunFailedError, UserError
from tools.settings import project_folder


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
    """The project's kernel: the file that a push sends.

    Raises:
        UserError: kernel-metadata.json names none.
    """
    return metadata.load(project_folder()).code_file


def run_kernel(settings: dict[str, Any], log: Path) -> dict[str, Any]:
    """Run the kernel as a program with a progress bar, and read its ``run.json``.

    Its output is added to ``log``, which may hold that of the part that is gone on with. Ctrl-C
    reaches the kernel too: it saves its state and ends, and is listened to until then; a second
    one ends it at once.

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
        open(log, "a", encoding="utf-8", buffering=1) as copy,
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
            if found := logs.progress(line):
                bar.update(
                    task,
                    description="training",
                    completed=found.step,
                    total=found.steps,
                    detail=found.detail.rpartition(" | ")[0],
                )
            elif line.startswith(("predicting", "validation")):
                bar.update(task, description=line.split(" at ")[0].strip())
    record = Path(settings["out"]) / "run.json"
    result = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if pressed.is_set() and (kernel.returncode or result.get("status") != "complete"):
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
