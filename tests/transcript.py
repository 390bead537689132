"""Print the README's transcript: the whole way, against the local server, with a tiny true run.

python tests/transcript.py
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from tests.peers.kaggle import KaggleServer  # noqa: E402
from tests.peers.worker import TINY, Worker  # noqa: E402

COMMANDS = [
    "tools doctor",
    "tools push-kernel " + " ".join(f"--set {name}={value}" for name, value in TINY.items()),
    "tools wait",
    "tools logs | grep rmse",
    "tools fetch-outputs --to models",
    "tools runs",
]


def main() -> None:
    """Run the commands one by one in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as temporary, KaggleServer() as server:
        folder = Path(temporary) / "project"
        (folder / "kernel").mkdir(parents=True)
        for name in ("kernel/pix2pix.py", "kernel-metadata.json"):
            shutil.copy(PROJECT / name, folder / name)
        data = Path(temporary) / "data"
        environment = {
            **os.environ,
            **server.environment(),
            "PYTHONPATH": str(PROJECT),
            "TOOLS_TIMEOUT": "300",
            "NO_COLOR": "1",
            "PYTHON": sys.executable,
        }
        make = [sys.executable, "-m", "tools", "make-dataset", "--sample", str(data)]
        subprocess.run(make, check=True, capture_output=True, env=environment)
        server.on_push = Worker(data, Path(temporary))
        program = f"{shlex.quote(sys.executable)} -m tools"
        for command in COMMANDS:
            print(f"$ {command}", flush=True)
            done = subprocess.run(
                command.replace("tools", program, 1),
                shell=True,
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            print(done.stdout.replace(str(folder), "~/project").rstrip() + "\n", flush=True)


if __name__ == "__main__":
    main()
