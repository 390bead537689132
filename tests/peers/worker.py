"""What Kaggle's machines do: run what was pushed, beside a dataset, and keep what it leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.peers.kaggle import Version

TINY = {
    "steps": 4,
    "width": 4,
    "log_every": 2,
    "validate_every": 2,
    "checkpoint_every": 2,
    "validation_per_class": 1,
}
"""Settings with which the kernel takes seconds."""


class Worker:
    """Give it to ``KaggleServer.on_push``: a push is answered when its run has ended."""

    def __init__(self, data: Path, folder: Path) -> None:
        self._data, self._folder = data, folder

    def __call__(self, version: Version) -> None:
        out = self._folder / f"working-{version.number}"
        script = self._folder / f"script-{version.number}.py"
        script.write_text(version.pushed["text"])
        places = [f"--data={self._data}", f"--out={out}", "--resume-from=", "--no-require-gpu"]
        command = [sys.executable, str(script), *places]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self._folder)
        version.say(*done.stdout.splitlines())
        version.say(*done.stderr.splitlines(), stream="stderr")
        version.states[-1] = "COMPLETE" if done.returncode == 0 else "ERROR"
        files = (path for path in sorted(out.rglob("*")) if path.is_file())
        version.outputs = {path.relative_to(out).as_posix(): path.read_bytes() for path in files}
