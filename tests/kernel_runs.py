"""Quick runs of the kernel: its command, what it logs and records, and a step of noise."""

import csv
import json

import numpy as np

from tests.project import PROJECT

TINY = ("--width", "2", "--log-every", "1", "--validation-per-class", "1", "--noise", "0")


def rows_of(folder):
    with open(folder / "training_log.csv", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def result_of(folder):
    return json.loads((folder / "run.json").read_text())


def command(python, sample, out, *flags):
    script = PROJECT / "kernel" / "pix2pix.py"
    return [str(x) for x in (python, script, "--data", sample, "--out", out, *TINY, *flags)]


def step_of_noise(batch):
    """Input, mask and target of one step."""
    import tensorflow as tf

    rng = np.random.default_rng(batch)
    seen, target = rng.uniform(-1, 1, (2, batch, 256, 256, 3)).astype(np.float32)
    mask = np.zeros((batch, 256, 256, 1), np.float32)
    mask[:, 20:95, 30:105] = mask[:, 120:195, 0:75] = 1
    return tf.constant(seen), tf.constant(mask), tf.constant(target)
