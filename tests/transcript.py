"""The whole way from the laptop to the leaderboard, as a transcript, against the test server.

``python tests/transcript.py`` prints Markdown. Everything in it happens: the real client, the real
kernel on the sample dataset, true scores; only Kaggle's machines are replaced by this one.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from tests.peers.kaggle import KaggleServer, Version  # noqa: E402
from tests.peers.scoring import scorer  # noqa: E402

WAY = """\
tools fetch-data
tools probe --yes
tools push-kernel --set steps=20 --set width=8 --set log_every=10
tools wait
tools fetch-outputs
tools submit --message "20 steps, narrow"
tools runs
tools submissions
"""


def main() -> None:
    """Print each command and what a person sees."""
    with tempfile.TemporaryDirectory() as folder, KaggleServer() as server:
        data = Path(folder) / "dataset"
        _tools(["make-dataset", "--sample", str(data)], PROJECT, dict(os.environ))
        truth = data / "Testing_Truth"
        server.competition.score = scorer(truth)
        server.competition.archive = _packed(data, truth)
        server.on_push = lambda version: _work(version, data, Path(folder) / "working")
        project = Path(folder) / "project"
        shutil.copytree(PROJECT / "kernel", project / "kernel")
        shutil.copy(PROJECT / "kernel-metadata.json", project)
        environment = {**os.environ, **server.environment(), "HOME": folder, "COLUMNS": "120"}
        print("```console")
        for line in WAY.splitlines():
            said = _tools(shlex.split(line)[1:], project, environment)
            print(f"$ {line}\n{said.replace(str(project), '.')}", end="")
        print("```")


def _tools(arguments: list[str], folder: Path, environment: dict[str, str]) -> str:
    environment["PYTHONPATH"] = str(PROJECT)
    command = [sys.executable, "-m", "tools", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{shlex.join(command)} exited {done.returncode}: {done.stdout}")
    return done.stdout


def _packed(data: Path, truth: Path) -> bytes:
    """The competition's archive: the dataset without the truth."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(data.rglob("*")):
            if path.is_file() and truth not in path.parents:
                archive.write(path, Path("Dataset") / path.relative_to(data))
    return packed.getvalue()


def _work(version: Version, data: Path, out: Path) -> None:
    """Run what was pushed, as Kaggle would."""
    script = out.with_suffix(".py")
    script.write_text(version.pushed["text"])
    command = [sys.executable, str(script), "--data", str(data), "--out", str(out)]
    done = subprocess.run([*command, "--no-require-gpu"], capture_output=True, text=True)
    version.say(*done.stdout.splitlines())
    version.states[-1] = "ERROR" if done.returncode else "COMPLETE"
    files = (path for path in out.rglob("*") if path.is_file())
    version.outputs = {str(path.relative_to(out)): path.read_bytes() for path in files}


if __name__ == "__main__":
    main()
