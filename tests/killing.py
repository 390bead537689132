"""Kill a tiny run at random moments, start it again each time, and look at what is left."""

from __future__ import annotations

import csv
import itertools
import json
import random
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TINY = ("--preset", "best", "--width", "8", "--patch", "8", "--depth", "2")
TINY += ("--blocks", "1", "--batch-size", "2")
EVERY = ("--log-every", "1", "--checkpoint-every", "1", "--validate-every", "7", "--ensemble", "1")


@dataclass(frozen=True)
class Survival:
    """What came of a run that was killed again and again, beside one that was left alone."""

    kills: int
    checkpoints: list[int]  # the step of the checkpoint that each kill left
    rows: list[int]  # steps of the training log
    greatest_difference: float  # of any variable, from the run that was left alone

    def whole(self, steps: int) -> bool:
        """Whether no checkpoint was lost, no step is missing or repeated, and weights are equal."""
        growing = self.checkpoints == sorted(self.checkpoints)
        return (
            growing and self.rows == list(range(1, steps + 1)) and self.greatest_difference == 0.0
        )


def step_of(checkpoint: Path) -> int:
    """Step of a checkpoint; 0 where there is none."""
    if not checkpoint.exists():
        return 0
    with np.load(checkpoint) as arrays:
        return json.loads(arrays["about"].tobytes())["step"]


def kill_often(
    python: str, script: Path, data: Path, out: Path, kills: int, steps: int
) -> Survival:
    """Kill a run ``kills`` times and let it finish; a quarter of the kills fall into its start."""
    chance = random.Random(0)

    def command(where: str) -> list[str]:
        words = [python, script, "--data", data, "--out", out / where, "--steps", steps]
        return [*map(str, words), *TINY, *EVERY, "--validation-per-class", "1"]

    began = time.monotonic()
    subprocess.run(command("alone"), check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - began
    checkpoint, left = out / "killed" / "checkpoint.npz", []
    for kill in range(kills):
        with subprocess.Popen(command("killed"), stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            if kill % 4:  # let it train and save a step before the moment comes
                steps_done = (line for line in run.stdout if line.startswith("step "))
                next(itertools.islice(steps_done, 1, None))
                moment = chance.uniform(0, 0.1)
            else:
                moment = chance.uniform(0, took / 2)
            try:
                run.wait(moment)
            except subprocess.TimeoutExpired:
                run.kill()
        left.append(step_of(checkpoint))
    subprocess.run(command("killed"), check=True, stdout=subprocess.DEVNULL)
    with open(out / "killed" / "training_log.csv", encoding="utf-8") as stream:
        rows = [int(row["step"]) for row in csv.DictReader(stream)]
    with np.load(checkpoint) as killed, np.load(out / "alone" / "checkpoint.npz") as alone:
        names = [name for name in alone if name != "about"]
        assert set(names) == set(killed) - {"about"}
        difference = max(np.abs(killed[name] - alone[name]).max(initial=0) for name in names)
    return Survival(kills, left, rows, float(difference))
