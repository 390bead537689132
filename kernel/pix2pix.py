"""Fill two 75x75 holes in 256x256 photographs with a network trained on whole ones.

One script, unchanged on a Kaggle GPU, on a laptop's CPU and on a cluster. It reads a dataset
folder and writes a run folder: the trained networks, logs, pictures, the submission and, last,
``run.json``.

    python kernel/pix2pix.py --data DATASET --out RUN

``--help`` lists every setting. Preset ``report`` is a published recipe for the competition, a
Pix2Pix (Isola et al. 2017, arXiv:1611.07004), to the letter as far as it says; ``best`` is a U-Net
of residual blocks that scores better.
"""

# %% Imports
from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import difflib
import functools
import hashlib
import io
import itertools
import json
import math
import operator
import os
import platform
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported
os.environ["KERAS_BACKEND"] = "tensorflow"

import absl.logging  # noqa: E402
import h5py  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image, JpegImagePlugin  # noqa: E402

SIDE = 256  # of a photo, px
HOLE = 75  # side of a hole, px
LAST = SIDE - HOLE  # the last row or column at which a hole may start

OVERRIDES: dict[str, object] = {}


class UserError(Exception):
    """A mistake that the user can mend; its text is the one line that is printed."""


# %% Configuration


def setting(
    default: Any,
    doc: str,
    *,
    choices: Sequence[Any] = (),
    low: float | None = None,
    high: float | None = None,
    session: bool = False,
) -> Any:
    """Declare a field of ``Config``; a ``session`` field may change when a run goes on."""
    return field(
        default=default,
        metadata={"doc": doc, "choices": choices, "low": low, "high": high, "session": session},
    )


@dataclass(frozen=True)
class Config:
    """Every setting of a run; its defaults are the preset ``report``."""

    # fmt: off
    # What to do
    preset: str = setting("report", "Named settings to start from.",
        choices=("report", "best", "perceptual"))
    predictor: str = setting("model", "What fills the holes; all but 'model' learn nothing. "
        "'average' is the mean of the fills of earlier runs' networks.",
        choices=("model", "average", "harmonic", "mean", "zeros"))
    members: str = setting("", "Folders, separated by commas, that hold at any depth the runs of "
        "predictor 'average'.")
    data: str = setting("", "Dataset folder, at any level above Testing_Data; or its gs:// URL.",
        session=True)
    out: str = setting("", "Run folder to write.", session=True)
    resume_from: str = setting("", "Folder holding, at any depth, an earlier run to go on from.",
        session=True)
    start_from: str = setting("", "Folder holding, at any depth, an earlier run whose generator to "
        "start with; all else starts anew.")
    seed: int = setting(0, "Seed of everything random.", low=0, high=2**32 - 1)
    require_gpu: bool = setting(False, "Stop at once where there is no GPU.", session=True)
    # Data
    limit: int = setting(0, "Images per class to use; 0 means all.", low=0)
    split_seed: int = setting(0, "Seed of which images are held out.", low=0)
    validation_per_class: int = setting(50, "Images per class to hold out, a fifth at most.", low=1)
    max_bad_fraction: float = setting(0.01, "Share of unusable training images past which the run "
        "stops.", low=0, high=1, session=True)
    augmentation: str = setting("five", "Fixed copies of each image: itself; with its rotations "
        "and mirror image (the report's 7,000 to 35,000); or all 8 symmetries of the square.",
        choices=("none", "five", "eight"))
    jitter: int = setting(286, "Side to resize to before a random 256 px crop; 256: none.", low=256)
    flip: bool = setting(True, "Mirror every other image left to right, at random.")
    noise: float = setting(0.01, "Deviation of the noise on the input, of the pixel range [0, 1].",
        low=0, high=1)
    holes: str = setting("csv", "Holes to train with: each image's own from the CSV, or new ones "
        "at every step.", choices=("csv", "random"))
    hole_pairs: int = setting(1, "Pairs of random holes a training picture, apart from each other, "
        "so that each pass teaches more.", choices=(1, 2, 3))
    jpeg: bool = setting(False, "Train with holes whose surroundings are disturbed as those of the "
        "masked files are, which were saved as JPEG after the holes were cut.")
    cache: str = setting("auto", "Where decoded training photos are kept; none: each is decoded "
        "when it is used. auto takes the first of memory and disk of which half of what is free "
        "will do.", choices=("auto", "memory", "disk", "none"), session=True)
    # Networks
    prefill: bool = setting(False, "Show the generator the harmonic fill in the holes, not zeros.")
    mask_input: bool = setting(False, "Show the generator where the holes are, as one channel.")
    residual: bool = setting(False, "Add the generator's output, 0 at first, to its input: step 0 "
        "is then the prefill.")
    generator: str = setting("pix2pix", "The report's U-Net, or one of residual blocks on patches "
        "of the picture.", choices=("pix2pix", "blocks"))
    width: int = setting(64, "Filters of the first layer; of generator 'blocks', at an eighth of "
        "the resolution: half as many at a quarter, half as many again on coarser levels.", low=1)
    depth: int = setting(8, "Down layers, of which the first 8 halve the image; or levels of "
        "generator 'blocks'.", low=1, high=10)
    dropout: float = setting(0.5, "Dropout of the first three up layers.", low=0, high=0.95)
    patch: int = setting(8, "Side of the patches of generator 'blocks', px.", low=1, high=32)
    blocks: int = setting(2, "Residual blocks a level of generator 'blocks'.", low=1)
    attention: bool = setting(True, "Self-attention on the coarsest level of generator 'blocks'.")
    # Losses
    loss_region: str = setting("image", "Where errors count; the rest is copied anyway.",
        choices=("image", "holes"))
    lambda_gan: float = setting(1.0, "Weight of the adversarial loss; 0: no discriminator.", low=0)
    lambda_l1: float = setting(1000.0, "Weight of the mean absolute error.", low=0)
    lambda_l2: float = setting(0.0, "Weight of the mean square error.", low=0)
    lambda_disc: float = setting(1000.0, "Weight of the generated half of the discriminator's "
        "loss.", low=0)
    # Optimisation
    steps: int = setting(170_000, "Training steps; 0 predicts untrained.", low=0, session=True)
    hours: float = setting(0.0, "Hours to train for instead of steps, over all sessions; the "
        "schedule spans them.", low=0, session=True)
    batch_size: int = setting(1, "Images a step, over all replicas.", low=1)
    optimizer: str = setting("adam", "Of the generator; the discriminator's is always Adam.",
        choices=("adam", "muon"))
    learning_rate: float = setting(2e-4, "Of the generator.", low=0)
    discriminator_rate: float = setting(2e-4, "Learning rate of the discriminator.", low=0)
    rate_batch: int = setting(0, "Batch that both rates are meant for; with another one they are "
        "scaled by the square root of their ratio. 0: they are never scaled.", low=0)
    beta_1: float = setting(0.5, "Adam's decay of the mean gradient; with muon, of what is left to "
        "Adam.", low=0, high=0.9999)
    beta_2: float = setting(0.999, "Adam's decay of the mean square, likewise.", low=0,
        high=0.999999)
    schedule: str = setting("constant", "Of the learning rate over all steps; trapezoid stays, and "
        "falls to 0 over the last 30 %.", choices=("constant", "trapezoid", "cosine"), session=True)
    warmup: int = setting(0, "Steps over which the learning rate rises from 0.", low=0)
    clip_norm: float = setting(0.0, "Largest norm of a network's gradient; 0: any.", low=0)
    ema: float = setting(0.0, "Decay of the averaged weights that predict, at most "
        "(1 + step) / (10 + step); 0: the last weights.", low=0, high=0.99999)
    # Speed
    precision: str = setting("float32", "Of the networks' arithmetic; auto takes what the GPU is "
        "made for, float32 on a CPU.",
        choices=("float32", "auto", "bfloat16", "float16"), session=True)
    xla: str = setting("auto", "Compile the step with XLA, on several devices the parts of it in "
        "which they do not meet; auto does on a GPU.",
        choices=("auto", "on", "off"), session=True)
    steps_per_call: int = setting(0, "Steps inside one call of the compiled loop; 0: 10 on a GPU, "
        "fewer with large batches, and 1 on a CPU.", low=0, session=True)
    distribute: str = setting("auto", "Share each step's images among one machine's devices, or "
        "those of all workers that TF_CONFIG names; auto does what is there and divides "
        "batch_size.", choices=("auto", "none", "mirrored", "multiworker"), session=True)
    profile: int = setting(0, "Steps to trace for TensorBoard's profiler, soon after the start.",
        low=0, session=True)
    # Session
    time_budget: float = setting(8.5, "Hours after which this session ends by itself, outputs "
        "complete.", low=0, session=True)
    log_every: int = setting(100, "Steps between log lines.", low=1, session=True)
    validate_every: int = setting(5000, "Steps between validations.", low=1, session=True)
    checkpoint_every: int = setting(5000, "Steps between checkpoints.", low=1, session=True)
    # Prediction
    predict_in_training_mode: bool = setting(True, "Predict with the picture's own batch "
        "statistics and with dropout, as the report does; without, batch norm at the 1x1 "
        "bottleneck is broken at batch 1.", session=True)
    export: str = setting("best", "Weights to predict with and to save: the last, or those best on "
        "the validation images.", choices=("best", "last"), session=True)
    ensemble: int = setting(1, "Symmetries of the square to average predictions over; with "
        "predictor average, each run's own.",
        choices=(1, 2, 4, 8), session=True)
    channel_order: str = setting("bgr", "Channels of the submission.",
        choices=("bgr", "rgb"), session=True)
    value_scale: str = setting("unit", "Values of the submission: pixels / 255, or min-max over "
        "each channel of the picture.", choices=("unit", "minmax"), session=True)
    # fmt: on

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UserError: naming the setting, its value and what is right.
        """
        for f in fields(self):
            value, meta, kind = getattr(self, f.name), f.metadata, type(f.default)
            if kind is float and type(value) is int:
                object.__setattr__(self, f.name, float(value))
            elif type(value) is not kind:
                raise UserError(f"{f.name} = {value!r}: give a value of type {kind.__name__}.")
            if meta["choices"] and value not in meta["choices"]:
                right = ", ".join(map(str, meta["choices"]))
                raise UserError(f"{f.name} = {value!r}: choose from {right}.")
            if kind in (int, float):
                if not math.isfinite(value):
                    raise UserError(f"{f.name} = {value!r}: give a finite number.")
                if meta["low"] is not None and value < meta["low"]:
                    raise UserError(f"{f.name} = {value!r}: give at least {meta['low']}.")
                if meta["high"] is not None and value > meta["high"]:
                    raise UserError(f"{f.name} = {value!r}: give at most {meta['high']}.")
        several = self.holes == "random" and self.hole_pairs > 1
        if (self.jpeg or several) and self.jitter > SIDE:
            raise UserError(
                f"jitter = {self.jitter}: with jpeg or several hole_pairs the holes are placed "
                f"before it enlarges the photo: give jitter {SIDE}, or no jpeg and hole_pairs 1."
            )
        if self.generator == "pix2pix" and self.depth < 4:
            raise UserError(f"depth = {self.depth}: generator pix2pix takes at least 4.")
        step = max(8, 32 // self.patch)
        if self.generator == "blocks" and self.width % step:
            raise UserError(
                f"width = {self.width}: generator blocks with patches of {self.patch} px takes a "
                f"multiple of {step}."
            )
        smallest = SIDE // self.patch >> (self.depth - 1)
        if self.generator == "blocks" and (SIDE % self.patch or not smallest):
            raise UserError(
                f"patch = {self.patch} and depth = {self.depth}: patches must tile {SIDE} px and "
                "leave at least one of them at the last level."
            )

    @property
    def learns(self) -> bool:
        """Whether training photos are needed: a baseline, or no steps, can do without."""
        return self.predictor == "model" and (self.steps > 0 or self.hours > 0)

    def settings(self, session: bool) -> dict[str, Any]:
        """Return what each session may change, or what makes the run the run it is."""
        chosen = (f.name for f in fields(self) if f.metadata["session"] == session)
        return {name: getattr(self, name) for name in chosen}


BEST: dict[str, Any] = {
    "augmentation": "eight",
    "jitter": 256,
    "flip": False,
    "noise": 0.0,
    "holes": "random",
    "hole_pairs": 3,
    "jpeg": True,
    "prefill": True,
    "mask_input": True,
    "residual": True,
    "generator": "blocks",
    "depth": 5,
    "patch": 4,
    "loss_region": "holes",
    "lambda_gan": 0.0,
    "lambda_l1": 0.0,
    "lambda_l2": 1.0,
    "steps": 12_500,
    "batch_size": 16,
    "optimizer": "muon",
    "learning_rate": 3e-3,
    "rate_batch": 16,
    "beta_1": 0.9,
    "beta_2": 0.99,
    "schedule": "trapezoid",
    "warmup": 200,
    "clip_norm": 1.0,
    "ema": 0.999,
    "predict_in_training_mode": False,
    "precision": "auto",
    "validate_every": 500,
    "checkpoint_every": 500,
    "ensemble": 8,
}
# For people who look at pictures: it sharpens what ``best`` has learned (``start_from``), at a cost
# in RMSE. Four times the adversarial loss, for longer, drew a mesh of the patches' size.
PERCEPTUAL = BEST | {
    "steps": 1000,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "warmup": 50,
    "validate_every": 250,
    "lambda_gan": 0.005,
    "lambda_l1": 1.0,
    "lambda_disc": 1.0,
    "discriminator_rate": 4e-4,
    "export": "last",  # the lowest RMSE would choose the weights that the other losses moved least
    "ensemble": 1,
}
PRESETS: dict[str, dict[str, Any]] = {"report": {}, "best": BEST, "perceptual": PERCEPTUAL}


def make_config(settings: Mapping[str, Any]) -> Config:
    """Apply ``settings`` on top of the preset that they name.

    Raises:
        UserError: for an unknown setting (with the nearest right one) or a value that is not valid.
    """
    names = [f.name for f in fields(Config)]
    for name in settings:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0)[0]
            raise UserError(
                f"unknown setting {name!r}: did you mean {near!r}? pix2pix.py --help lists all."
            )
    return Config(**{**PRESETS.get(str(settings.get("preset", "")), {}), **settings})


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, exit code 2."""

    def error(self, message: str) -> Any:
        """Print the line and exit."""
        self.exit(2, f"error: {message}\n")


def command_line(argv: Sequence[str]) -> tuple[dict[str, Any], bool]:
    """Read the settings given on the command line, and whether only to print them."""
    parser = OneLineParser(
        description=__doc__.split("\n\n")[0],
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="Print all settings, the run's and those that each session may change, and stop.",
    )
    presets = {name: make_config({"preset": name}) for name in PRESETS}
    for f in fields(Config):
        values = {name: getattr(config, f.name) for name, config in presets.items()}
        shown = (
            str(next(iter(values.values())))
            if len(set(values.values())) == 1
            else ", ".join(f"{name}: {value}" for name, value in values.items())
        )
        if f.name == "preset":
            shown = "report"
        changes = "; may change when a run goes on" if f.metadata["session"] else ""
        help_text = f"{f.metadata['doc']} ({shown or 'empty'}{changes})".replace("%", "%%")
        flag = "--" + f.name.replace("_", "-")
        if isinstance(f.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=help_text)
        else:
            choices = f.metadata["choices"] or None
            metavar = None if choices else type(f.default).__name__.upper()
            parser.add_argument(
                flag, type=type(f.default), choices=choices, metavar=metavar, help=help_text
            )
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [option for action in parser._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown[0].split("=")[0], flags, 1, 0)[0]
        parser.error(
            f"unknown argument {unknown[0]}: did you mean {near}? pix2pix.py --help lists all."
        )
    given = vars(known)
    return given, given.pop("print_config", False)


# %% Output: every file is written whole or not at all


def say(message: str) -> None:
    """Print one line now; Kaggle's log shows it at once."""
    print(message, flush=True)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it into place.

    Raises:
        UserError: where the disk is full or the folder can't be written; ``path`` is unchanged.
    """
    part = path.with_name(f".{os.getpid()}.{path.name}")  # keeps the suffix that Keras looks at
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with open(part, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)
    except OSError as failure:
        raise UserError(
            f"{path} could not be written ({failure.strerror or failure}): make room or choose "
            "another --out; what was there before is unchanged."
        ) from failure
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


# %% Data: find the dataset, read where the holes are, decode every photo once


@dataclass(frozen=True)
class Photo:
    """One picture: its files and its holes.

    ``boxes`` is two (top row, left column) pairs; ``clean`` is None where the truth is not known.
    """

    name: str
    label: str
    masked: Path
    clean: Path | None
    boxes: tuple[int, int, int, int]


PICTURES = ("Masked_Train", "Unmasked_Train")  # folders that hold nothing else


def open_folder(where: str) -> Path:
    """Return a folder as a path; for a URL, one that reads through ``tf.io.gfile``.

    Raises:
        UserError: for another scheme than gs://, or where the library for it is missing.
    """
    if "://" not in where:
        return Path(where)
    if not where.startswith("gs://"):
        raise UserError(f"data = {where}: give a folder or a gs:// URL.")
    try:
        from etils import epath
    except ImportError:
        raise UserError(f"data = {where}: a URL needs pip install etils[epath].") from None
    return epath.Path(where)


def find_dataset(root: Path, need_training: bool) -> Path:
    """Find the folder that holds ``Testing_Data`` (and ``Training_Data``) at or below ``root``.

    Kaggle has mounted competitions at three depths; the marker is the test set's CSV.

    Raises:
        UserError: with what is there instead.
    """
    level, seen = [root], []
    for _ in range(7):
        for folder in level:
            base = folder.parent if folder.name == "Testing_Data" else folder
            if (base / "Testing_Data" / "masked_info.csv").is_file() and (
                not need_training or (base / "Training_Data").is_dir()
            ):
                return base
        level = sorted(
            child
            for folder in level
            if folder.is_dir() and folder.name not in PICTURES
            for child in folder.iterdir()
            if child.is_dir() and not child.name.startswith(".")
        )
        seen += [str(folder.relative_to(root)) for folder in level]
    there = ", ".join(seen[:20]) + (", …" if len(seen) > 20 else "") if seen else "no folder"
    if not root.is_dir():
        there = "the folder does not exist"
    wanted = "Training_Data beside " if need_training else ""
    raise UserError(
        f"no dataset under {root} (there: {there}): give --data a folder that holds "
        f"{wanted}Testing_Data/masked_info.csv."
    )


def read_boxes(path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Read a ``masked_info.csv``: index, file name, top, left of box 1, top, left of box 2.

    Raises:
        UserError: naming the row that has another form, or the name that comes twice.
    """
    boxes: dict[str, tuple[int, int, int, int]] = {}
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as failure:
        raise UserError(f"{path} can't be read as a CSV ({failure}): fetch it again.") from failure
    if not rows or len(rows[0]) != 6:
        raise UserError(
            f"{path}, row 1: {len(rows[0]) if rows else 0} columns, not 6 (index, filename, "
            "y1, x1, y2, x2): restore the original file."
        )
    for number, row in enumerate(rows[1:], start=2):
        try:
            _, name, *numbers = row
            y1, x1, y2, x2 = (int(value) for value in numbers)
        except ValueError:
            raise UserError(
                f"{path}, row {number}: {','.join(row)!r} is not an index, a file name and four "
                "whole numbers: restore the original file."
            ) from None
        if not re.fullmatch(r"[\w .()+-]+", name) or name.startswith("."):
            raise UserError(f"{path}, row {number}: {name!r} is no plain file name: correct it.")
        if name in boxes:
            raise UserError(f"{path}, row {number}: {name} appears twice: remove one.")
        boxes[name] = (y1, x1, y2, x2)
    return boxes


def box_fault(boxes: Sequence[int]) -> str:
    """Say what is wrong with the two boxes, or nothing."""
    outside = [value for value in boxes if not 0 <= value <= LAST]
    return f"box at {outside[0]} is outside 0 to {LAST}" if outside else ""


def list_pictures(folder: Path) -> set[str]:
    """Names of the pictures in a folder; ``._cat_1.jpg`` is macOS's note on one."""
    suffixes = (".jpg", ".jpeg", ".png")
    names = (p.name for p in folder.iterdir() if p.suffix.lower() in suffixes)
    return {name for name in names if not name.startswith(".")}


def list_test(base: Path) -> list[Photo]:
    """List the test pictures in the order of their CSV, which is the submission's.

    Raises:
        UserError: for any fault, since every row of the submission is owed.
    """
    folder = base / "Testing_Data"
    boxes, there = read_boxes(folder / "masked_info.csv"), list_pictures(folder)
    if missing := sorted(boxes.keys() - there):
        raise UserError(f"{folder / missing[0]} is in masked_info.csv but not there: fetch it.")
    if extra := sorted(there - boxes.keys()):
        raise UserError(f"{folder / extra[0]} has no row in masked_info.csv: add it or remove it.")
    if not boxes:
        raise UserError(f"{folder / 'masked_info.csv'} has no rows: fetch the test set again.")
    for name, four in boxes.items():
        if fault := box_fault(four):
            raise UserError(f"{folder / 'masked_info.csv'}: {name}: {fault}: correct the row.")
    return [Photo(n, class_of(n), folder / n, None, four) for n, four in boxes.items()]


def class_of(name: str) -> str:
    """Class of a picture that lies in no class folder: the letters that its name starts with."""
    letters = re.match(r"[A-Za-z]+", name)
    return letters[0].capitalize() if letters else "Photo"


def list_training(base: Path) -> tuple[list[Photo], dict[str, str]]:
    """List the training pictures, with or without class folders, and the faulty ones with why.

    Raises:
        UserError: where folders are missing, or a CSV can't be read.
    """
    training = base / "Training_Data"
    folders = [f.parent for f in sorted(training.glob("*/Masked_Train"))]
    if (training / "Masked_Train").is_dir():
        folders.append(training)
    if not folders:
        raise UserError(f"{training} holds no Masked_Train folder: see the data layout.")
    photos: list[Photo] = []
    faults: dict[str, str] = {}
    for folder in folders:
        masked, clean = folder / "Masked_Train", folder / "Unmasked_Train"
        if not clean.is_dir():
            raise UserError(f"{clean} is not there: its pictures are what is learned from.")
        boxes = read_boxes(masked / "masked_info.csv")
        with_hole, without = list_pictures(masked), list_pictures(clean)
        for name in sorted(with_hole | without | boxes.keys()):
            where = str((masked / name).relative_to(base))
            if name not in boxes:
                faults[where] = "no row in masked_info.csv"
            elif name not in with_hole:
                faults[where] = "no masked picture"
            elif name not in without:
                faults[where] = "no unmasked partner"
            elif fault := box_fault(boxes[name]):
                faults[where] = fault
            else:
                label = class_of(name) if folder == training else folder.name
                photos.append(Photo(name, label, masked / name, clean / name, boxes[name]))
    return photos, faults


def split(photos: Sequence[Photo], config: Config) -> tuple[list[Photo], list[Photo]]:
    """Hold out validation pictures of each class, the same for the same seed.

    Raises:
        UserError: where no picture is left to train on.
    """
    training, validation = [], []
    for label in sorted({photo.label for photo in photos}):
        members = [photo for photo in photos if photo.label == label]
        random.Random(f"{config.split_seed} {label}").shuffle(members)
        members = members[: config.limit or None]
        held = min(config.validation_per_class, max(1, len(members) // 5))
        validation += members[:held]
        training += members[held:]
    if not training:
        raise UserError("no picture is left to train on: give at least 2 a class.")
    return training, validation


# What Pillow raises for a damaged picture, and TensorFlow for one that a bucket does not give.
UNREADABLE = (OSError, tf.errors.OpError, SyntaxError, Image.DecompressionBombError)


def open_picture(path: Path) -> Image.Image:
    """Open a picture, also in a bucket, as JPEG or PNG alone: other readers take more risks."""
    return Image.open(io.BytesIO(path.read_bytes()), formats=("JPEG", "PNG"))


def decode(path: Path) -> np.ndarray:
    """Decode a picture of any colour mode to uint8 [256, 256, 3], RGB.

    Raises:
        ValueError: saying what is wrong with the file.
    """
    try:
        with open_picture(path) as image:
            if image.size != (SIDE, SIDE):
                raise ValueError(f"is {image.width}x{image.height}, not {SIDE}x{SIDE}")
            return np.asarray(image.convert("RGB"))
    except Image.UnidentifiedImageError as failure:
        raise ValueError("can't be decoded (neither JPEG nor PNG)") from failure
    except UNREADABLE as failure:
        raise ValueError(f"can't be decoded ({failure})") from failure


class MaskedFiles:
    """Makes of photos and holes what a masked file would hold.

    The files were saved as JPEG with black holes, which bleed into the pixels around them: by 7 of
    255 at the edge where quality was 95, mostly in colour, which has half the resolution. Photos
    are saved as the first sound one of ``files`` was; formats but JPEG are taken to keep every
    pixel.

    Raises:
        UserError: where none of ``files`` can be opened.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.saved: dict[str, Any] = {}
        why = "there is none"
        for file in files:
            try:
                with open_picture(file) as image:
                    if tables := getattr(image, "quantization", None):
                        sampling = JpegImagePlugin.get_sampling(image)
                        self.saved = {"qtables": tables, "subsampling": sampling}
                return
            except UNREADABLE as failure:
                why = f"{file}: {failure}"
        raise UserError(f"no masked training file can be opened ({why}): fetch them again.")

    def __call__(self, photos: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Cut ``boxes`` [n, boxes, 2] out of uint8 [n, 256, 256, 3] and disturb the rest."""
        photos = photos.copy()
        for photo, corners in zip(photos, boxes, strict=True):
            for top, left in corners:
                photo[top : top + HOLE, left : left + HOLE] = 0
            if self.saved:
                file = io.BytesIO()
                Image.fromarray(photo).save(file, "JPEG", **self.saved)
                photo[:] = Image.open(file)
        return photos


def free_memory() -> int:
    """Memory that is free for use, bytes: the machine's, or what a container (cgroup v2) may take.

    Where the system does not tell, 4 GiB.
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            amounts = dict(line.split(":") for line in lines)
        free = int(amounts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        free = 4 << 30
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError, KeyError):  # there may be no limit
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, most - used + int(kept["inactive_file"]))
    return free


def choose_cache(cache: str, count: int, memory: int, disk: int) -> str:
    """Choose where ``count`` decoded photos are kept, if ``auto``; what is free is in bytes."""
    size = count * SIDE * SIDE * 3
    if cache != "auto":
        return cache
    if size <= memory // 2:
        return "memory"
    return "disk" if size <= disk // 2 else "none"


READERS = 4 * (os.cpu_count() or 1)  # threads: a disk or a bucket answers several at once


def decode_all(paths: Sequence[Path], what: str, cache: str) -> tuple[np.ndarray, dict[int, str]]:
    """Decode pictures in threads, once, to uint8 [n, 256, 256, 3]; faults by index.

    The array lies in memory, or in an unlinked file on scratch disk: the operating system then
    keeps what fits. With ``cache`` none, pictures are only checked and the array is empty.
    """
    shape = (len(paths) if cache != "none" else 0, SIDE, SIDE, 3)
    if cache == "disk":
        with tempfile.TemporaryFile() as scratch:
            if hasattr(os, "posix_fallocate"):  # not on a Mac; else a full disk kills the process
                os.posix_fallocate(scratch.fileno(), 0, max(1, math.prod(shape)))
            photos: np.ndarray = np.memmap(scratch, np.uint8, "w+", shape=shape)
    else:
        photos = np.empty(shape, np.uint8)
    faults: dict[int, str] = {}

    def fill(index: int) -> None:
        try:
            photos[index : index + 1] = decode(paths[index])
        except ValueError as fault:
            faults[index] = str(fault)

    said = time.monotonic()
    with ThreadPoolExecutor(READERS) as pool:
        for done, _ in enumerate(pool.map(fill, range(len(paths))), start=1):
            if time.monotonic() - said > 10:
                said = time.monotonic()
                say(f"reading {what}: {done}/{len(paths)}")
    return photos, faults


class DecodedOnUse:
    """Photos that are decoded whenever they are asked for: memory holds only those being used.

    They are indexed like an array [n, 256, 256, 3]. A photo that can't be decoded is told of once
    and replaced by the next one that can.
    """

    def __init__(self, paths: Sequence[Path], most_faults: float) -> None:
        self.paths, self.most_faults = paths, min(most_faults, len(paths) - 1)
        self.pool, self.faults = ThreadPoolExecutor(READERS), set[int]()

    def __getitem__(self, indices: Iterable[int]) -> np.ndarray:
        """Decode the photos at ``indices``: uint8 [m, 256, 256, 3].

        Raises:
            UserError: once too many can't be decoded.
        """
        return np.stack(list(self.pool.map(self._one, indices)))

    def _one(self, index: int) -> np.ndarray:
        while True:
            try:
                return decode(self.paths[index])
            except ValueError as fault:
                if index not in self.faults:
                    self.faults.add(index)
                    say(f"  left out: {self.paths[index]}: {fault}")
                if len(self.faults) > self.most_faults:
                    raise UserError(
                        f"{len(self.faults)} of {len(self.paths)} training pictures can't be used, "
                        f"more than max_bad_fraction allows; the last is {self.paths[index]}."
                    ) from None
                index = (index + 1) % len(self.paths)


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures: uint8 [n, 256, 256, 3] each, boxes int32 [n, 2, 2] (top, left).

    Of training pictures only ``clean`` is kept: their holes are cut out of it.
    """

    photos: list[Photo]
    boxes: np.ndarray
    masked: Any  # an array; None of training pictures
    clean: Any  # an array, or what is indexed like one; None of test pictures

    @property
    def names(self) -> list[str]:
        """What each picture is known by: other datasets' ``cat_1.jpg`` have other holes."""
        return [f"{photo.label}/{photo.name} {photo.boxes}" for photo in self.photos]

    @classmethod
    def of(cls, photos: list[Photo], masked: Any, clean: Any) -> Pictures:
        """Put pictures and their boxes together."""
        boxes = np.array([photo.boxes for photo in photos], np.int32).reshape(-1, 2, 2)
        return cls(photos, boxes, masked, clean)


@dataclass(frozen=True)
class Dataset:
    """The three parts; without training pictures only ``test`` is there."""

    test: Pictures
    training: Pictures | None
    validation: Pictures | None


def load_dataset(config: Config) -> Dataset:
    """Find, check and decode the dataset, and print one report of it.

    Raises:
        UserError: for a faulty test picture, or too many faulty training pictures.
    """
    root = open_folder(config.data or "/kaggle/input")
    base = find_dataset(root, need_training=config.learns)
    test = list_test(base)
    test_pixels, bad = decode_all([photo.masked for photo in test], "test pictures", "memory")
    for index, fault in bad.items():
        raise UserError(f"{test[index].masked} {fault}: fetch it again; every row is owed.")
    say(f"dataset {base}: {len(test)} test pictures")
    parts = load_training(config, base) if (base / "Training_Data").is_dir() else (None, None)
    return Dataset(Pictures.of(test, test_pixels, None), *parts)


def load_training(config: Config, base: Path) -> tuple[Pictures, Pictures]:
    """Decode the pictures to learn from and those that are held out.

    Raises:
        UserError: where too many are faulty, or too few are left.
    """
    photos, faults = list_training(base)
    total = len(photos) + len(faults)
    training, validation = split(photos, config)
    scratch = shutil.disk_usage(tempfile.gettempdir()).free
    kind = config.cache if config.learns else "none"
    cache = choose_cache(kind, len(training), free_memory(), scratch)
    bad: dict[Path, str] = {}
    if cache == "none":
        files = [photo.clean for photo in training if photo.clean]
        on_use = DecodedOnUse(files, config.max_bad_fraction * len(files))
        learned = Pictures.of(training, None, on_use)
    else:
        learned, bad = decode_pairs(training, "training pictures", cache, keep_masked=False)
    held_out, more = decode_pairs(validation, "validation pictures", "memory", keep_masked=True)
    faults |= {str(file.relative_to(base)): fault for file, fault in (bad | more).items()}
    counts = Counter(photo.label for photo in photos)
    say("  training pictures: " + ", ".join(f"{k} {n}" for k, n in sorted(counts.items())))
    tell_faults(faults, total, config.max_bad_fraction)
    if not learned.photos or not held_out.photos:
        raise UserError(f"{base / 'Training_Data'}: too few pictures are left to train on.")
    count, copies = len(learned.photos), len(SYMMETRIES[config.augmentation])
    kept = {"memory": "in memory", "disk": "on scratch disk", "none": "decoded when used"}[cache]
    learning = f"{count} to train on, {kept}, x {copies} = {count * copies} with augmentation; "
    say(f"  {learning if config.learns else ''}{len(held_out.photos)} held out")
    return learned, held_out


def decode_pairs(
    photos: list[Photo], what: str, cache: str, keep_masked: bool
) -> tuple[Pictures, dict[Path, str]]:
    """Decode pictures with and without holes, and leave out those of which a file is faulty.

    Returns the others, and the faulty file of each picture that is left out, with why.
    """
    clean_files = [photo.clean for photo in photos if photo.clean]
    masked_files = [photo.masked for photo in photos]
    clean, bad_clean = decode_all(clean_files, what, cache)
    keep = cache if keep_masked else "none"
    masked, bad_masked = decode_all(masked_files, f"masked {what}", keep)
    faults = {
        (clean_files if index in bad_clean else masked_files)[index]: fault
        for index, fault in (bad_masked | bad_clean).items()
    }
    good = [i for i in range(len(photos)) if i not in bad_clean and i not in bad_masked]
    if len(good) < len(photos):
        for to, index in enumerate(good):  # in place: there may be no memory for a copy
            clean[to] = clean[index]
            if keep_masked:
                masked[to] = masked[index]
        photos = [photos[i] for i in good]
    pixels = masked[: len(good)] if keep_masked else None
    return Pictures.of(photos, pixels, clean[: len(good)]), faults


def tell_faults(faults: Mapping[str, str], total: int, most: float) -> None:
    """List what is left out, by file.

    Raises:
        UserError: where it is more than the share ``most`` of all.
    """
    for where, fault in sorted(faults.items())[:20]:
        say(f"  left out: {where}: {fault}")
    if len(faults) > 20:
        say(f"  left out: {len(faults) - 20} more")
    if len(faults) > most * total:
        where, fault = min(faults.items())
        raise UserError(
            f"{len(faults)} of {total} training pictures can't be used, more than max_bad_fraction "
            f"= {most:g}; the first is {where}: {fault}."
        )


# %% Holes: masks, crops and the harmonic fill
#
# Boxes are int32 [n, 2, 2]: two (top, left) corners an image. They may touch the edge or overlap.
# While training there may be more pairs, [n, 2 * pairs, 2]; no pair touches another.

CANDIDATES = 512  # pairs: one fits beside the first in all pictures, another in two of three


def draw_boxes(draw: np.random.Generator, pairs: int = 1) -> np.ndarray:
    """Draw an image's holes, a pair anywhere inside it and more pairs apart: int32 [2 * pairs, 2].

    Where no candidate has room, the pairs that are there stand there again.
    """
    chosen = [draw.integers(LAST + 1, size=(2, 2), dtype=np.int32)]
    candidates = draw.integers(
        LAST + 1, size=(CANDIDATES if pairs > 1 else 0, 2, 2), dtype=np.int32
    )
    while len(chosen) < pairs:
        apart = (abs(candidates[:, :, None] - chosen[-1]).max(-1) > HOLE).all((1, 2))
        candidates = candidates[apart]
        if not len(candidates):
            break
        chosen.append(candidates[0])
    return np.resize(np.concatenate(chosen), (2 * pairs, 2))


# Coordinates are int64 wherever they are computed with: int32 lives on a GPU's host, and each turn
# there and back would wait for the device.


def hole_mask(boxes: tf.Tensor) -> tf.Tensor:
    """Return 1 in the holes and 0 elsewhere: float32 [n, 256, 256, 1]."""
    boxes = tf.cast(boxes, tf.int64)
    offset = tf.range(SIDE, dtype=tf.int64) - boxes[..., None]  # [n, box, axis, pixel]
    inside = (offset >= 0) & (offset < HOLE)
    in_box = inside[:, :, 0, :, None] & inside[:, :, 1, None, :]
    return tf.cast(tf.reduce_any(in_box, 1), tf.float32)[..., None]


def crop_holes(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Cut the holes out of [256, 256, c]: [boxes, 75, 75, c]."""
    return np.stack([image[y : y + HOLE, x : x + HOLE] for y, x in boxes])


def paste_holes(images: tf.Tensor, boxes: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Replace the holes by ``values`` [n, boxes, 75, 75, c]; the second of a pair wins.

    Each pixel is looked up once, in the image or in a hole: a scatter takes longer by half.
    """
    offset = tf.range(SIDE, dtype=tf.int64) - tf.cast(boxes, tf.int64)[..., None]
    inside = (offset >= 0) & (offset < HOLE)  # [n, box, axis, pixel]
    count = boxes.shape[1]
    source = count * HOLE**2 + tf.reshape(tf.range(SIDE**2, dtype=tf.int64), [1, SIDE, SIDE])
    for box in range(count):
        at = (box * HOLE + offset[:, box, 0, :, None]) * HOLE + offset[:, box, 1, None, :]
        source = tf.where(inside[:, box, 0, :, None] & inside[:, box, 1, None, :], at, source)
    shape = tf.shape(images)
    flat = [tf.reshape(x, [shape[0], -1, shape[3]]) for x in (values, images)]
    pasted = tf.gather(tf.concat(flat, 1), tf.reshape(source, [shape[0], -1]), batch_dims=1)
    return tf.reshape(pasted, shape)


def ring_offsets() -> np.ndarray:
    """Offsets of the 4 x 75 pixels around a hole from its corner: above, below, left, right."""
    along = np.arange(HOLE)
    before, after = np.full(HOLE, -1), np.full(HOLE, HOLE)
    sides = [(before, along), (after, along), (along, before), (along, after)]
    return np.concatenate([np.stack(side, -1) for side in sides])


@functools.cache
def poisson_basis() -> tuple[np.ndarray, np.ndarray]:
    """Diagonalise the second difference on 75 points: eigenvectors [3, 75, 75], values [3, 75].

    The three cases are: known pixels at both ends; none before the first (the image's edge, which
    reflects); none after the last.
    """
    bases = []
    for first, last in ((2, 2), (1, 2), (2, 1)):
        second = 2 * np.eye(HOLE) - np.eye(HOLE, k=1) - np.eye(HOLE, k=-1)
        second[0, 0], second[-1, -1] = first, last
        bases.append(np.linalg.eigh(second))
    return np.stack([b[1] for b in bases]), np.stack([b[0] for b in bases])


@functools.cache
def ring_operator() -> tf.Tensor:
    """Harmonic fill of a hole as a matrix: float32 [9 * 5625, 300], from its ring to its pixels.

    The first 9 are 3 * (case of the rows) + (case of the columns), as in ``poisson_basis``.
    """
    vectors, values = poisson_basis()
    source = np.zeros((4 * HOLE, HOLE, HOLE))
    beside = np.clip(ring_offsets(), 0, HOLE - 1)
    source[np.arange(4 * HOLE), beside[:, 0], beside[:, 1]] = 1
    operator = np.empty((9, HOLE * HOLE, 4 * HOLE), np.float32)
    for rows in range(3):
        for columns in range(3):
            vy, vx = vectors[rows], vectors[columns]
            modes = vy.T @ source @ vx / (values[rows][:, None] + values[columns])
            operator[3 * rows + columns] = (vy @ modes @ vx.T).reshape(4 * HOLE, -1).T
    with tf.init_scope():  # one tensor, on the first device, for all graphs: it has 60 MB
        return tf.constant(operator.reshape(-1, 4 * HOLE))


def harmonic_fill(images: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Fill the holes of float32 [n, 256, 256, 3] with the solution of Laplace's equation.

    The pixels around a hole are the boundary values; the image's edge reflects.
    """
    boxes = tf.cast(boxes, tf.int64)
    ring_at = boxes[:, :, None, :] + ring_offsets()  # [n, boxes, 300, 2]
    inside = tf.reduce_all((ring_at >= 0) & (ring_at < SIDE), -1, keepdims=True)
    ring = tf.gather_nd(images, tf.clip_by_value(ring_at, 0, SIDE - 1), batch_dims=1)
    ring = tf.where(inside, ring, 0.0)
    filled = fill_pairs(tf.reshape(boxes, [-1, 2, 2]), tf.reshape(ring, [-1, 2, 4 * HOLE, 3]))
    return paste_holes(images, boxes, tf.reshape(filled, [-1, boxes.shape[1], HOLE, HOLE, 3]))


def fill_pairs(boxes: tf.Tensor, ring: tf.Tensor) -> tf.Tensor:
    """Fill pairs of holes from the values around them, [n, 2, 300, 3]: [n, 2, 75, 75, 3].

    A hole is a square, so the equation is diagonal in the eigenvectors of the second difference and
    a fill is four 75x75 matrix products. Where the two overlap or touch, the ring pixels of one
    that lie in the other are unknown: they solve a 150x150 system, so that the union is filled
    exactly. Source: the fast Poisson solver by diagonalisation (Lynch, Rice and Thomas 1964,
    doi:10.1007/BF01386067).
    """
    in_other = boxes[:, :, None, :] + ring_offsets() - boxes[:, ::-1, None, :]
    unknown = tf.reduce_all((in_other >= 0) & (in_other < HOLE), -1)  # [n, 2, 300]
    ring = tf.where(unknown[..., None], 0.0, ring)
    hidden = tf.cast(unknown, tf.int64)  # a GPU gathers no bool
    case = tf.cast(boxes == 0, tf.int64) + 2 * tf.cast(boxes == LAST, tf.int64)  # [n, 2, axis]

    joined = tf.where(tf.reduce_any(unknown, [1, 2]))
    ring = tf.cond(
        tf.size(joined) > 0,
        lambda: tf.tensor_scatter_nd_add(
            ring,
            joined,
            _shared_ring(*(tf.gather_nd(x, joined) for x in (ring, hidden, in_other, case))),
        ),
        lambda: ring,
    )

    vectors, values = (tf.constant(part, tf.float32) for part in poisson_basis())
    vy, vx = tf.gather(vectors, case[..., 0]), tf.gather(vectors, case[..., 1])
    wy, wx = tf.gather(values, case[..., 0]), tf.gather(values, case[..., 1])
    above, below, left, right = tf.split(ring, 4, axis=2)  # [n, 2, 75, 3]
    rest = [0, HOLE - 1]
    none = [0, 0]
    source = (
        tf.pad(above[:, :, None], [none, none, rest, none, none])
        + tf.pad(below[:, :, None], [none, none, rest[::-1], none, none])
        + tf.pad(left[:, :, :, None], [none, none, none, rest, none])
        + tf.pad(right[:, :, :, None], [none, none, none, rest[::-1], none])
    )
    source = tf.transpose(source, [0, 1, 4, 2, 3])  # channels become a batch axis
    vy, vx = vy[:, :, None], vx[:, :, None]
    modes = tf.matmul(tf.matmul(vy, source, transpose_a=True), vx)
    modes /= (wy[..., :, None] + wx[..., None, :])[:, :, None]
    filled = tf.matmul(tf.matmul(vy, modes), vx, transpose_b=True)
    return tf.transpose(filled, [0, 1, 3, 4, 2])


SHARED = 2 * HOLE  # so many ring pixels of a hole, two whole sides, may lie in the other one


def _shared_ring(
    ring: tf.Tensor, hidden: tf.Tensor, in_other: tf.Tensor, case: tf.Tensor
) -> tf.Tensor:
    """Values of the ring pixels of each hole that lie in the other one; 0 elsewhere.

    Each such pixel is a row of the other hole's operator applied to that hole's ring, whose own
    unknown pixels are rows of the first one's: g0 = p0 + C0 g1, g1 = p1 + C1 g0. The unknown ones
    are brought together first, so that the system is of 150 and not of 300.
    """
    count = tf.cumsum(tf.cast(hidden, tf.float32), axis=2)  # a GPU adds up no int64
    chosen = (count[:, :, None] == tf.range(1.0, SHARED + 1)[:, None]) & (hidden > 0)[:, :, None]
    chosen = tf.cast(chosen, tf.float32)  # [n, 2, 150, 300]
    at = tf.cast(tf.linalg.matvec(chosen, tf.range(4.0 * HOLE)), tf.int64)
    used = tf.reduce_sum(chosen, -1, keepdims=True)
    known, coupling = [], []
    for box in (0, 1):
        other = 1 - box
        place = tf.gather(in_other[:, box], at[:, box], batch_dims=1)
        place = tf.clip_by_value(place, 0, HOLE - 1)
        kind = 3 * case[:, other, 0] + case[:, other, 1]
        row = (kind[:, None] * HOLE + place[..., 0]) * HOLE + place[..., 1]
        rows = used[:, box] * tf.gather(ring_operator(), row)  # [n, 150, 300]
        known.append(tf.matmul(rows, ring[:, other]))
        coupling.append(tf.matmul(rows, chosen[:, other], transpose_b=True))
    system = tf.eye(SHARED) - tf.matmul(coupling[0], coupling[1])
    first = tf.linalg.solve(system, known[0] + tf.matmul(coupling[0], known[1]))
    values = tf.stack([first, known[1] + tf.matmul(coupling[1], first)], 1)
    return tf.matmul(chosen, values, transpose_a=True)


# %% Input pipeline: what a step sees is a pure function of the seed and the step
#
# A symmetry of the square is (transpose, mirror rows, mirror columns), in this order.

SYMMETRIES: dict[str, list[tuple[int, int, int]]] = {
    "none": [(0, 0, 0)],
    "five": [(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1), (0, 0, 1)],
    "eight": [(t, r, c) for t in (0, 1) for r in (0, 1) for c in (0, 1)],
}


@functools.cache
def turned_pixels() -> np.ndarray:
    """Where each pixel of a turned image comes from, for every symmetry: int32 [8, 65536]."""
    pixels = np.arange(SIDE * SIDE, dtype=np.int32).reshape(SIDE, SIDE)
    turned = []
    for transpose, rows, columns in SYMMETRIES["eight"]:
        image = pixels.T if transpose else pixels
        turned.append(image[:: -1 if rows else 1, :: -1 if columns else 1].ravel())
    return np.stack(turned)


def apply_symmetry(
    images: tf.Tensor, boxes: tf.Tensor, symmetry: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Turn each image and its boxes by its own symmetry, bool [n, 3]."""
    transpose, rows, columns = (symmetry[:, i] for i in range(3))
    boxes = tf.cast(boxes, tf.int64)
    which = tf.reduce_sum(tf.cast(symmetry, tf.int64) * [4, 2, 1], 1)
    source = tf.gather(turned_pixels(), which)
    flat = tf.reshape(images, [-1, SIDE * SIDE, images.shape[-1]])
    images = tf.reshape(tf.gather(flat, source, batch_dims=1), tf.shape(images))
    boxes = tf.where(transpose[:, None, None], boxes[..., ::-1], boxes)
    mirrored = tf.stack([rows, columns], -1)[:, None, :]
    return images, tf.where(mirrored, LAST - boxes, boxes)


def jittered(
    images: tf.Tensor, boxes: tf.Tensor, side: int, place: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Enlarge to ``side`` px and crop 256 px, bilinearly; holes move, but keep 75 px.

    ``place`` [n, 2] in [0, 1] says where the crop lies between the first and the last row, column.
    """
    count = tf.shape(images)[0]
    window = SIDE * SIDE / side - 1  # of the original image, between outer pixel centres
    corner = place * (SIDE - 1 - window)
    frame = tf.concat([corner, corner + window], 1) / (SIDE - 1)
    images = tf.image.crop_and_resize(images, frame, tf.range(count), [SIDE, SIDE])
    centre = tf.cast(boxes, tf.float32) + (HOLE - 1) / 2
    centre = (centre - corner[:, None, :]) * ((SIDE - 1) / window)
    boxes = tf.cast(tf.round(centre - (HOLE - 1) / 2), tf.int64)
    return images, tf.clip_by_value(boxes, 0, LAST)


def network_input(
    config: Config, images: tf.Tensor, boxes: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """What the generator sees of float32 [n, 256, 256, 3] in [0, 1]: the picture and its mask.

    The holes of the picture are zero, or the harmonic fill.
    """
    mask = hole_mask(boxes)
    seen = harmonic_fill(images, boxes) if config.prefill else images * (1 - mask)
    return scale_pixels(seen), mask


def scale_pixels(images: tf.Tensor) -> tf.Tensor:
    """From [0, 1] to the networks' range, [-1, 1]."""
    return images * 2 - 1


def unscale_pixels(images: tf.Tensor) -> tf.Tensor:
    """From the networks' range to [0, 1], cut off at its ends."""
    return tf.clip_by_value(images / 2 + 0.5, 0, 1)


def shuffled(seed: int, length: int, position: tf.Tensor) -> tf.Tensor:
    """Places in a sequence of ``length`` that is visited over and over, each time in a new order.

    Nothing is kept for it: the place at an int64 position [n] is computed.
    """
    key = tf.stack([tf.fill(tf.shape(position), np.int64(seed)), position // length], 1)
    return tf.raw_ops.RandomIndexShuffle(
        index=position % length,
        seed=tf.pad(tf.cast(key, tf.uint32), [[0, 0], [0, 1]]),
        max_index=np.int64(length - 1),
    )


def draw_example(config: Config, position: int) -> dict[str, np.ndarray]:
    """Draw all else that is random about the example at a position of the endless sequence.

    It depends on the seed and the position alone, not on batches, replicas or resumptions.
    """
    draw = np.random.default_rng([config.seed, position])
    drawn = {
        "mirror": np.array(draw.random() < 0.5),
        "corner": draw.random(2, np.float32),
        "noise": draw.integers(2**63, size=2),  # its seed: it is large, and made where the step is
    }
    if config.holes == "random":
        drawn["boxes"] = draw_boxes(draw, config.hole_pairs)
    return drawn


def draw_noise(seed: tf.Tensor) -> tf.Tensor:
    """Draw normal noise for one picture, the same on every device: float32 [256, 256, 3]."""
    return tf.random.stateless_normal([SIDE, SIDE, 3], seed, alg="philox")


def training_example(
    config: Config, drawn: Mapping[str, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Make input, mask and target, float32 [n, 256, 256, c], of what was drawn for n images.

    This is done where the networks are: a GPU gets bytes, and fills and turns them all at once.
    """
    symmetry = drawn["symmetry"]
    if config.flip:
        columns = tf.not_equal(symmetry[:, 2], drawn["mirror"])
        symmetry = tf.concat([symmetry[:, :2], columns[:, None]], 1)

    def moved(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.cast(images, tf.float32) / 255  # before it is turned: a GPU turns no bytes
        images, boxes = apply_symmetry(images, drawn["boxes"], symmetry)
        if config.jitter > SIDE:
            images, boxes = jittered(images, boxes, config.jitter, drawn["corner"])
        return images, boxes

    images, boxes = moved(drawn["photo"])
    seen = moved(drawn["masked"])[0] if config.jpeg else images
    if config.noise:
        noise = tf.map_fn(draw_noise, drawn["noise"], fn_output_signature=tf.float32)
        seen = tf.clip_by_value(seen + config.noise * noise, 0, 1)
    return *network_input(config, seen, boxes), scale_pixels(images)


CALL_IMAGES = 512  # take 0.9 GB as inputs, masks and targets


def call_periods(config: Config) -> tuple[int, ...]:
    """Periods, in steps, at which a call of the compiled loop ends; the first is its own."""
    many = max(1, min(10, CALL_IMAGES // config.batch_size))
    most = config.steps_per_call or (many if tf.config.list_physical_devices("GPU") else 1)
    return most, config.log_every, config.validate_every, config.checkpoint_every


def spans_of_calls(config: Config, first: int, last: float) -> Iterator[tuple[int, int]]:
    """Part steps ``first`` to ``last``, excluding ``last``, into calls of the compiled loop.

    A call ends wherever something is logged, validated or saved; ``last`` may be infinite.
    """
    periods = call_periods(config)
    while first < last:
        end = int(min(last, *(first - first % n + n for n in periods)))
        yield first, end
        first = end


def training_batches(
    config: Config,
    pictures: Pictures,
    first: int,
    last: float,
    replicas: int = 1,
    mine: Sequence[int] = (),
) -> tf.data.Dataset:
    """What ``training_example`` takes, for each call from step ``first``: [steps, images, ...].

    Each epoch visits every image under every symmetry once. A step's images are shared among its
    replicas, ``batch_size / replicas`` each; the dataset has a call's element for each of this
    process's replicas, ``mine``, in turn.
    """
    symmetries = np.array(SYMMETRIES[config.augmentation], bool)
    count, clean = len(pictures.photos), pictures.clean
    size = config.batch_size // replicas
    masked_files = MaskedFiles(photo.masked for photo in pictures.photos) if config.jpeg else None
    periods = call_periods(config)
    shortest = min(periods)
    even = not any(n % shortest for n in (first, last, *periods) if n < math.inf)
    length = shortest if even else None  # TensorFlow plans better with a number

    def parts() -> Iterator[tuple[int, int, int]]:
        for span in spans_of_calls(config, first, last):
            for replica in mine or range(replicas):
                yield *span, replica

    def draw(positions: np.ndarray, places: np.ndarray) -> list[np.ndarray]:
        index = places % count
        drawn = {"photo": clean[index], "symmetry": symmetries[places // count]}
        drawn["boxes"] = pictures.boxes[index]
        each = [draw_example(config, position) for position in positions.tolist()]
        drawn |= {name: np.stack([one[name] for one in each]) for name in each[0]}
        if masked_files:
            drawn["masked"] = masked_files(drawn["photo"], drawn["boxes"])
        return [drawn[name] for name in example]

    photo = np.empty((SIDE, SIDE, 3), np.uint8)
    example = {"photo": photo, "symmetry": symmetries[0], "boxes": pictures.boxes[0]}
    example |= draw_example(config, 0) | ({"masked": photo} if masked_files else {})
    kinds = [tf.as_dtype(value.dtype) for value in example.values()]

    def examples(part: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.range(part[0], part[1])[:, None] * config.batch_size + part[2] * size
        positions = tf.reshape(images + tf.range(size, dtype=tf.int64), [-1])
        places = shuffled(config.seed, count * len(symmetries), positions)
        drawn = tf.numpy_function(draw, [positions, places], kinds, stateful=False)
        return {
            name: tf.reshape(values, [length or part[1] - part[0], size, *example[name].shape])
            for name, values in zip(example, drawn, strict=True)
        }

    kind = tf.TensorSpec([3], tf.int64)
    dataset = tf.data.Dataset.from_generator(parts, output_signature=kind)
    return dataset.map(examples, tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


# %% Networks


# N(0, 0.02), the report's, from which Keras makes an initializer for each layer: one that layers
# share would give all of them the same numbers.
REPORT_INIT = {"class_name": "RandomNormal", "config": {"mean": 0.0, "stddev": 0.02}}


def generator_inputs(config: Config) -> tuple[list[Any], Any]:
    """Make the generator's inputs, the picture and perhaps its mask, and what its layers see."""
    picture = keras.Input((SIDE, SIDE, 3), name="picture")
    if not config.mask_input:
        return [picture], picture
    inputs = [picture, keras.Input((SIDE, SIDE, 1), name="mask")]
    return inputs, keras.layers.Concatenate(name="seen")(inputs)


def generator_output(config: Config, inputs: list[Any], x: Any, last: dict[str, Any]) -> Any:
    """End a generator with a transposed convolution to pixels, alone or added to its input."""
    layers = keras.layers
    if config.residual:
        change = layers.Conv2DTranspose(3, kernel_initializer="zeros", name="change", **last)(x)
        x = layers.Add(dtype="float32", name="filled")([inputs[0], change])
    else:
        init = REPORT_INIT
        x = layers.Conv2DTranspose(
            3, activation="tanh", kernel_initializer=init, dtype="float32", name="filled", **last
        )(x)
    return keras.Model(inputs, x, name="generator")


def build_generator(config: Config) -> keras.Model:
    """Build the generator that ``config`` names."""
    return {"pix2pix": build_pix2pix, "blocks": build_blocks}[config.generator](config)


def build_blocks(config: Config) -> keras.Model:
    """Build a U-Net of residual blocks that works on patches instead of pixels.

    Most of the error of a fill is of low frequency, and a patch costs as much as a pixel would: the
    convolutions see the whole picture early, and are wide at little cost. Blocks are normalised by
    groups of channels, whatever the batch (Wu and He 2018, arXiv:1803.08494), and start as the
    identity (De and Smith 2020, arXiv:2002.10444).
    """
    layers = keras.layers

    def normalised(x: Any, name: str) -> Any:
        return layers.GroupNormalization(math.gcd(8, x.shape[-1]), name=name)(x)

    def block(x: Any, name: str) -> Any:
        count = x.shape[-1]
        y = normalised(x, f"{name}_norm1")
        y = layers.Activation("swish", name=f"{name}_act1")(y)
        y = layers.Conv2D(count, 3, padding="same", name=f"{name}_conv1")(y)
        y = layers.Activation("swish", name=f"{name}_act2")(y)
        y = layers.Conv2D(
            count, 3, padding="same", kernel_initializer="zeros", name=f"{name}_conv2"
        )(y)
        return layers.Add(name=name)([x, y])

    def attend(x: Any, name: str) -> Any:
        height, width, count = x.shape[1:]
        y = normalised(x, f"{name}_norm")
        y = layers.Reshape((height * width, count), name=f"{name}_flat")(y)
        y = layers.MultiHeadAttention(4, count // 4, name=f"{name}_heads")(y, y)
        y = layers.Reshape((height, width, count), name=f"{name}_square")(y)
        return layers.Add(name=name)([x, y])

    sides = [config.patch * 2**level for level in range(config.depth)]  # of a cell, px
    filters = [config.width * min(side, 12) // 8 for side in sides]  # coarse levels use no more
    inputs, x = generator_inputs(config)
    x = layers.Conv2D(filters[0], config.patch, config.patch, name="patches")(x)
    skips = []
    for level, count in enumerate(filters):
        if level:
            skips.append(x)
            x = layers.Conv2D(count, 2, 2, name=f"down{level}")(x)
        for i in range(config.blocks):
            x = block(x, f"down{level}_block{i + 1}")
    if config.attention:
        x = attend(x, "attention")
        x = block(x, "middle_block")
    for level in reversed(range(config.depth - 1)):
        x = layers.Conv2DTranspose(filters[level], 2, 2, name=f"up{level}")(x)
        x = layers.Concatenate(name=f"skip{level}")([x, skips[level]])
        x = layers.Conv2D(filters[level], 1, name=f"merge{level}")(x)
        for i in range(config.blocks):
            x = block(x, f"up{level}_block{i + 1}")
    x = normalised(x, "end_norm")
    x = layers.Activation("swish", name="end_act")(x)
    return generator_output(
        config, inputs, x, {"kernel_size": config.patch, "strides": config.patch}
    )


class SmallTranspose(keras.layers.Conv2DTranspose):
    """A transposed convolution, 4x4 and stride 2, as a matrix product where pictures are small.

    At the report's bottleneck 33 MB of weights meet 4 or 16 pixels; a convolution on a CPU brings
    them into another order first, at every step, and takes two to four times as long.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Enlarge [n, h, w, c] to [n, 2h, 2w, filters]."""
        height, width, channels = inputs.shape[1:]
        if height > 4 or self.strides != (2, 2) or tf.config.list_physical_devices("GPU"):
            return super().call(inputs)
        kernel = tf.reshape(tf.convert_to_tensor(self.kernel), [-1, channels])
        pixels = tf.matmul(kernel, tf.reshape(inputs, [-1, channels]), transpose_b=True)
        # Each pixel makes 4x4, 2 apart from the next one's: halves of neighbours add up.
        x = tf.reshape(tf.transpose(pixels), [-1, height, width, 2, 2, 2, 2, self.filters])
        none, before, after = [0, 0], [1, 0], [0, 1]
        upper, lower = tf.unstack(x, axis=3)
        x = tf.pad(upper, [none, after] + [none] * 5) + tf.pad(lower, [none, before] + [none] * 5)
        left, right = tf.unstack(x, axis=4)
        x = tf.pad(left, [none, none, after] + [none] * 3)
        x += tf.pad(right, [none, none, before] + [none] * 3)
        x = tf.transpose(x, [0, 1, 3, 2, 4, 5])
        return tf.reshape(x, [-1, 2 * height + 2, 2 * width + 2, self.filters])[:, 1:-1, 1:-1]


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Let what is built meanwhile compute in float32."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def stock_layers(network: keras.Model) -> keras.Model:
    """Copy a network into float32 layers of Keras alone: it loads anywhere, without this script."""

    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        small = isinstance(layer, SmallTranspose)
        kind = keras.layers.Conv2DTranspose if small else type(layer)
        return kind.from_config(layer.get_config() | {"dtype": "float32"})

    with in_float32():
        copy = keras.models.clone_model(network, clone_function=copied)
    copy.set_weights(network.get_weights())
    return copy


def batch_norm(name: str) -> keras.layers.Layer:
    """Batch norm over the whole batch, however many replicas share it."""
    shared = tf.distribute.get_strategy().num_replicas_in_sync > 1
    return keras.layers.BatchNormalization(synchronized=shared, name=name)


def build_pix2pix(config: Config) -> keras.Model:
    """Build the report's U-Net: ``depth`` down layers, one up layer fewer, and skip connections.

    With width 64 and depth 8: 54,414,979 trainable and 10,880 non-trainable parameters.
    """
    layers = keras.layers
    filters = [config.width * min(2**i, 8) for i in range(config.depth)]
    strides = [2 if i < 8 else 1 for i in range(config.depth)]
    shape = {"padding": "same", "kernel_initializer": REPORT_INIT}
    inputs, x = generator_inputs(config)
    skips = []
    for i, (count, stride) in enumerate(zip(filters, strides, strict=True)):
        x = layers.Conv2D(count, 4, stride, use_bias=False, name=f"down{i + 1}", **shape)(x)
        if i:
            x = batch_norm(f"down{i + 1}_norm")(x)
        x = layers.LeakyReLU(0.3, name=f"down{i + 1}_relu")(x)
        skips.append(x)
    for i in range(1, config.depth):
        count, stride, skip = filters[-1 - i], strides[-i], skips[-1 - i]
        x = SmallTranspose(count, 4, stride, use_bias=False, name=f"up{i}", **shape)(x)
        x = batch_norm(f"up{i}_norm")(x)
        if i <= 3 and config.dropout:
            seed = config.seed * 10 + i
            x = layers.Dropout(config.dropout, seed=seed, name=f"up{i}_dropout")(x)
        x = layers.ReLU(name=f"up{i}_relu")(x)
        x = layers.Concatenate(name=f"skip{i}")([x, skip])
    last = {"kernel_size": 4, "strides": 2, "padding": "same"}
    return generator_output(config, inputs, x, last)


def build_discriminator(config: Config) -> keras.Model:
    """Build the PatchGAN: 30x30 logits for a pair of input and target or output.

    With width 64: 2,768,641 trainable and 1,792 non-trainable parameters.
    """
    layers = keras.layers
    init = {"kernel_initializer": REPORT_INIT}
    pair = [keras.Input((SIDE, SIDE, 3), name=name) for name in ("picture", "filled")]
    x = layers.Concatenate(name="pair")(pair)
    for i in range(3):
        name, count = f"down{i + 1}", config.width * 2**i
        x = layers.Conv2D(count, 4, 2, padding="same", use_bias=False, name=name, **init)(x)
        if i:
            x = batch_norm(f"{name}_norm")(x)
        x = layers.LeakyReLU(0.3, name=f"{name}_relu")(x)
    x = layers.ZeroPadding2D(name="pad1")(x)
    x = layers.Conv2D(config.width * 8, 4, use_bias=False, name="patch", **init)(x)
    x = batch_norm("patch_norm")(x)
    x = layers.LeakyReLU(0.3, name="patch_relu")(x)
    x = layers.ZeroPadding2D(name="pad2")(x)
    x = layers.Conv2D(1, 4, dtype="float32", name="logits", **init)(x)
    return keras.Model(pair, x, name="discriminator")


# %% Devices

DEFAULT_STRATEGY = tf.distribute.get_strategy()


def prepare_devices(config: Config) -> tf.distribute.Strategy:
    """Choose the devices of a run, before anything is computed.

    Raises:
        UserError: where there are others than the settings ask for.
    """
    if config.require_gpu and not gpus():
        raise UserError(
            "require_gpu is set and TensorFlow sees no GPU: choose an accelerator, or let "
            "TF_CPP_MIN_LOG_LEVEL=0 tell why it sees none."
        )
    with contextlib.suppress(RuntimeError):  # a notebook has computed something before
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    if config.predictor == "model":
        strategy = choose_strategy(config)
        if is_cluster(strategy) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # TensorFlow has taken it for itself
        return strategy
    if cluster_size() > 1:
        raise UserError(f"predictor = {config.predictor!r} takes one machine: unset TF_CONFIG.")
    return DEFAULT_STRATEGY


def choose_strategy(config: Config) -> tf.distribute.Strategy:
    """Choose the devices that share each step: to be done before anything is computed.

    Raises:
        UserError: where the batch does not divide, or ``distribute`` and TF_CONFIG disagree.
    """
    workers = cluster_size()
    if workers > 1:
        if config.distribute not in ("auto", "multiworker"):
            raise UserError(
                f"distribute = {config.distribute!r}, but TF_CONFIG names {workers} workers, who "
                "would all write the same run: choose auto, or unset TF_CONFIG."
            )
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        check_share(config, strategy.num_replicas_in_sync)
        return strategy
    if config.distribute == "multiworker":
        raise UserError("distribute = 'multiworker': TF_CONFIG names no other worker: set it.")
    devices = [d.name for d in tf.config.list_logical_devices("GPU")]
    if config.distribute == "mirrored":
        devices = devices or [d.name for d in tf.config.list_logical_devices("CPU")]
        check_share(config, len(devices))
    elif config.distribute == "none" or config.batch_size % max(1, len(devices)):
        devices = devices[:1]
    return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else DEFAULT_STRATEGY


def check_share(config: Config, devices: int) -> None:
    """Refuse a batch that can't be shared equally."""
    if config.batch_size % devices:
        raise UserError(
            f"batch_size = {config.batch_size} does not divide by {devices} devices: "
            "choose a multiple, or --distribute none."
        )


def cluster_size() -> int:
    """Number of the worker processes that TF_CONFIG names; 1 without it.

    Raises:
        UserError: where it is no such JSON.
    """
    try:
        given = json.loads(os.environ.get("TF_CONFIG") or "{}")
        cluster = given.get("cluster", {})
        if cluster:
            cluster[given["task"]["type"]][given["task"]["index"]]
        return max(1, sum(len(cluster.get(role, [])) for role in ("chief", "worker")))
    except (ValueError, AttributeError, TypeError, LookupError):
        raise UserError(
            "TF_CONFIG is no JSON object with a cluster of chief and worker addresses, and a task "
            "that is one of them: correct it."
        ) from None


def is_cluster(strategy: tf.distribute.Strategy) -> bool:
    """Whether several processes share the training."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def leads(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes, of those that share the training."""
    cluster = strategy.cluster_resolver
    return not is_cluster(strategy) or (
        cluster.task_type == "chief"
        or (cluster.task_id == 0 and "chief" not in cluster.cluster_spec().jobs)
    )


def gpus() -> list[dict[str, Any]]:
    """Details of the GPUs that TensorFlow sees."""
    seen = tf.config.list_physical_devices("GPU")
    return [{"device_name": g.name} | tf.config.experimental.get_device_details(g) for g in seen]


def precision_policy(config: Config) -> str:
    """Name the Keras policy: a GPU's own half precision, if ``auto``, and float32 elsewhere."""
    kind = config.precision
    if kind == "auto":
        oldest = min((g.get("compute_capability", (0, 0)) for g in gpus()), default=(0, 0))
        kind = "bfloat16" if oldest >= (8, 0) else "float16" if oldest >= (7, 0) else "float32"
    return kind if kind == "float32" else f"mixed_{kind}"


@functools.cache
def xla_works() -> bool:
    """Whether XLA can compile for this machine's GPU; not all images have what it takes."""
    try:
        tf.function(lambda x: x**1.5, jit_compile=True)(tf.ones(8))
    except tf.errors.OpError as failure:
        say(f"XLA does not work here ({failure.message.splitlines()[0]}): going on without it")
        return False
    return True


# %% Optimizers


class FusedAdam(keras.optimizers.Adam):
    """Adam whose update passes over a variable once, as TensorFlow's own kernel, not a dozen times.

    At batch 1 the update of the report's 57 million weights is a good part of a step. Of several
    devices each updates its own copy, by gradients that have been added up before: nothing of it
    needs the others, and XLA may compile it whole.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._iterations.value._aggregation = tf.VariableAggregation.NONE

    def _backend_update_step(
        self, gradients: list[tf.Tensor], variables: list[Any], learning_rate: Any
    ) -> None:
        for gradient, variable in zip(gradients, variables, strict=True):
            self.update_step(gradient, variable, learning_rate)

    def update_step(self, gradient: tf.Tensor, variable: Any, learning_rate: Any) -> None:
        """Update one variable and its moments in place."""
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.value.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class Muon(FusedAdam):
    """Momentum whose update of each inner kernel is made orthogonal; Adam for everything else.

    All directions of a kernel then learn equally fast. A kernel counts as the matrix between its
    inputs and its outputs; those that see or give pixels, biases and scales are Adam's. Sources:
    Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982, for
    the step that takes Adam's learning rate.
    """

    MOMENTUM = 0.95  # Jordan's

    def build(self, variables: list[Any]) -> None:
        """Make the momentums of all, and the mean squares that Adam takes besides."""
        if self.built:
            return
        keras.optimizers.Optimizer.build(self, variables)
        self._momentums = [self.add_variable_from_reference(v, "momentum") for v in variables]
        self._velocities = [
            self.add_variable_from_reference(v, "velocity") if self._is_adams(v) else None
            for v in variables
        ]

    def _is_adams(self, variable: Any) -> bool:
        shape = variable.shape
        pixels = len(shape) == 4 and min(shape[-2:]) < 8
        return pixels or len(shape) < 2 or variable.name == "bias"

    def _backend_update_step(
        self, gradients: list[tf.Tensor], variables: list[Any], learning_rate: Any
    ) -> None:
        """Update all variables, those of equal shapes together: a GPU waits for single products."""
        alike: dict[tuple[int, int], list[tuple[Any, tf.Tensor]]] = {}
        for gradient, variable in zip(gradients, variables, strict=True):
            index = self._get_variable_index(variable)
            if self._velocities[index] is not None:
                self.update_step(gradient, variable, learning_rate)
                continue
            momentum, shape = self._momentums[index], matrix_shape(variable.shape)
            self.assign(momentum, self.MOMENTUM * momentum + gradient)
            ahead = tf.reshape(gradient + self.MOMENTUM * momentum, shape)  # as Nesterov looks
            alike.setdefault(shape, []).append((variable, ahead))
        for shape, found in alike.items():
            updates = orthogonal(tf.stack([ahead for _, ahead in found]))
            rate = learning_rate * 0.2 * max(shape) ** 0.5
            for (variable, _), update in zip(found, tf.unstack(updates), strict=True):
                self.assign_sub(variable, rate * tf.reshape(update, variable.shape))

    def flops(self) -> int:
        """Operations of one update's matrix products; a multiplication and its addition are two."""
        shapes = [
            sorted(matrix_shape(momentum.shape))
            for momentum, velocity in zip(self._momentums, self._velocities, strict=True)
            if velocity is None
        ]
        return sum(5 * 2 * (2 * short**2 * long + short**3) for short, long in shapes)


def orthogonal(matrices: tf.Tensor) -> tf.Tensor:
    """Bring the singular values of matrices [..., rows, columns] near 1, between 0.7 and 1.2.

    Those below some thousandth of the norm stay smaller. Five Newton-Schulz steps with Jordan's
    coefficients (kellerjordan.github.io/posts/muon), which half precision bears.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return tf.linalg.matrix_transpose(orthogonal(tf.linalg.matrix_transpose(matrices)))
    matrices /= tf.norm(matrices, axis=[-2, -1], keepdims=True) + 1e-7
    matrices = tf.cast(matrices, keras.config.dtype_policy().compute_dtype)
    for _ in range(5):
        square = tf.matmul(matrices, matrices, transpose_b=True)
        matrices = 3.4445 * matrices + (2.0315 * square @ square - 4.775 * square) @ matrices
    return tf.cast(matrices, tf.float32)


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Shape of the matrix between a kernel's inputs and outputs: the most square one."""
    whole = math.prod(shape)
    rows = min(itertools.accumulate(shape, operator.mul), key=lambda n: max(n, whole // n))
    return rows, whole // rows


class LearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises over ``warmup`` steps and then stays, or falls to 0 until step ``end``.

    ``trapezoid`` falls over the last 30 % of all steps (Haegele et al. 2024, arXiv:2405.18392),
    ``cosine`` after the warm-up (Loshchilov and Hutter 2017, arXiv:1608.03983). The end is a
    variable: of a training that is planned in hours it moves.
    """

    def __init__(self, config: Config, rate: float, end: tf.Variable) -> None:
        self.schedule, self.warmup, self.rate, self.end = config.schedule, config.warmup, rate, end

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The rate of a step."""
        step, end = tf.cast(step, tf.float32), tf.convert_to_tensor(self.end)
        level = step / self.warmup if self.warmup else tf.constant(1.0)
        if self.schedule == "trapezoid":
            level = tf.minimum(level, (end - step) / tf.maximum(1.0, 0.3 * end))
        elif self.schedule == "cosine":
            done = (step - self.warmup) / tf.maximum(1.0, end - self.warmup)
            level = tf.minimum(level, 0.5 + 0.5 * tf.cos(math.pi * tf.clip_by_value(done, 0, 1)))
        return self.rate * tf.clip_by_value(level, 0.0, 1.0)


# %% Losses and one training step

# The generator's total and its three parts; the discriminator's.
LOSSES = ("gen", "gan", "l1", "l2", "disc")
LOSS_SCALE = "loss_scale"  # in the names of variables that only float16 has


def cross_entropy(is_real: float, logits: tf.Tensor) -> tf.Tensor:
    """Mean binary cross-entropy of logits against one label."""
    labels = tf.fill(tf.shape(logits), is_real)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))


def mean_error(config: Config, error: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Mean of an error [n, 256, 256, 3] over the image, or over the values of its holes.

    Holes count by their size, so that replicas agree: where they overlap or repeat, it is smaller.
    """
    if config.loss_region == "image":
        return tf.reduce_mean(error)
    holes = 2 * config.hole_pairs if config.holes == "random" else 2
    values = error.shape[0] * holes * HOLE * HOLE * 3
    return tf.reduce_sum(error * mask) / values


def predicting_prefix(config: Config) -> str:
    """How the names of the variables begin with which a run predicts."""
    return "averaged/" if config.ema else "generator/"


class Pix2Pix:
    """Both networks, both optimisers and the step: all of a run's state that is trained.

    It is made for the devices of ``strategy``, which share the images of each step.
    """

    def __init__(self, config: Config, strategy: tf.distribute.Strategy | None = None) -> None:
        self.config = config
        self.strategy = strategy or tf.distribute.get_strategy()
        self.replicas = self.strategy.num_replicas_in_sync
        keras.config.set_dtype_policy(precision_policy(config))
        with self.strategy.scope():
            self._build(config)
        self._compile(config.xla == "on" or (config.xla == "auto" and bool(gpus()) and xla_works()))
        self.train_step = tf.function(self._train_step)
        self.train_steps = tf.function(self._train_steps)
        self.forward = tf.function(self._forward, reduce_retracing=True)

    def _build(self, config: Config) -> None:
        self.end = tf.Variable(float(config.steps), trainable=False)  # of the schedule, a step
        self.generator = build_generator(config)
        networks = {"generator": self.generator}
        if config.lambda_gan:
            networks["discriminator"] = self.discriminator = build_discriminator(config)
        self.optimizers = {name: self._optimizer(network) for name, network in networks.items()}
        self.networks = dict(networks)
        self.averaged, self.predicting = self.generator, predicting_prefix(config)
        if config.ema:
            with in_float32():  # in bfloat16, scores are off by a thousandth in either direction
                self.networks["averaged"] = self.averaged = build_generator(config)
            self.averaged.set_weights(self.generator.get_weights())

    def _compile(self, xla: bool) -> None:
        """Let XLA compile the step, or of several devices' all parts in which they do not meet.

        They meet to add up their gradients, in batch norm, and on processors to scale a loss.
        """
        layers = [layer for network in self.networks.values() for layer in network.layers]
        norms = any(isinstance(layer, keras.layers.BatchNormalization) for layer in layers)
        scaled = precision_policy(self.config) == "mixed_float16"
        whole, several = xla and self.replicas == 1, xla and self.replicas > 1
        parts = {
            "gradients": several and not norms,
            "update": several and (not scaled or bool(gpus())),
        }
        named = " and ".join(f"the {part}" for part, apart in parts.items() if apart)
        self.compiled = "the step" if whole else named or "nothing"
        self._replica_step = tf.function(self._train_replica, jit_compile=whole or None)
        self._replica_gradients: Any = self._gradients
        self._replica_update: Any = self._update
        if parts["gradients"]:
            self._replica_gradients = tf.function(self._gradients, jit_compile=True)
        if parts["update"]:
            self._replica_update = tf.function(self._update, jit_compile=True)

    def _optimizer(self, network: keras.Model) -> keras.optimizers.Optimizer:
        config = self.config
        # So Adam's noise of a step stays the same (Malladi et al. 2022, arXiv:2205.10287); Muon is
        # taken to be alike.
        ratio = config.batch_size / (config.rate_batch or config.batch_size)
        generates = network is self.generator
        peak = (config.learning_rate if generates else config.discriminator_rate) * ratio**0.5
        rate = LearningRate(config, peak, self.end)
        muon = config.optimizer == "muon" and generates
        kind, clip = Muon if muon else FusedAdam, config.clip_norm or None
        optimizer = kind(rate, config.beta_1, config.beta_2, global_clipnorm=clip)
        if precision_policy(config) == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(network.trainable_variables)
        return optimizer

    def _train_steps(self, drawn: Mapping[str, Any]) -> tf.Tensor:
        """Train on the steps of one call of ``training_batches``; return losses [steps, kinds]."""

        def examples(drawn: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
            size = drawn["photo"].shape[1]
            images = {name: tf.reshape(x, [-1, *x.shape[2:]]) for name, x in drawn.items()}
            made = training_example(self.config, images)
            return tuple(tf.reshape(x, [-1, size, *x.shape[1:]]) for x in made)

        # All at once and before the loop, in which they would come to a GPU anew at each step.
        made = self.strategy.run(examples, (drawn,))
        steps = tf.shape(self.strategy.experimental_local_results(made[0])[0])[0]
        losses = tf.TensorArray(tf.float32, steps, element_shape=[len(LOSSES)])
        for step in tf.range(steps):
            batch = self.strategy.run(lambda step, made: tuple(x[step] for x in made), (step, made))
            losses = losses.write(step, self._train_step(*batch))
        return losses.stack()

    def _train_step(self, seen: tf.Tensor, mask: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Train on one batch; return the values named by ``LOSSES``."""
        losses = self.strategy.run(self._replica_step, (seen, mask, target))
        return self.strategy.reduce(tf.distribute.ReduceOp.MEAN, losses, axis=None)

    def _train_replica(self, seen: tf.Tensor, mask: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        losses, gradients = self._replica_gradients(seen, mask, target)
        if self.replicas > 1:
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        self._replica_update(gradients)
        return losses

    def _update(self, gradients: dict[str, list[tf.Tensor]]) -> None:
        """Update all networks by the gradients of the whole batch."""
        for name, optimizer in self.optimizers.items():
            optimizer.apply(gradients[name], self.networks[name].trainable_variables)
        if self.config.ema:
            # The average starts short, so that it does not remember the first weights.
            optimizer = self.optimizers["generator"]
            steps = getattr(optimizer, "inner_optimizer", optimizer).iterations
            done = tf.cast(steps, tf.float32)
            keep = tf.minimum(self.config.ema, (1 + done) / (10 + done))
            for mean, last in zip(self.averaged.weights, self.generator.weights, strict=True):
                mean.assign(keep * mean + (1 - keep) * last)

    def _gradients(
        self, seen: tf.Tensor, mask: tf.Tensor, target: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, list[tf.Tensor]]]:
        """Return the losses of a replica's images and, by network, its part of the gradients."""
        config = self.config
        gan = disc = tf.constant(0.0)
        with tf.GradientTape(persistent=True) as tape:
            output = self.generator(self._inputs(seen, mask), training=True)
            if config.lambda_gan:
                shown = output
                if config.loss_region == "holes":
                    shown = target * (1 - mask) + output * mask
                real = self.discriminator([seen, target], training=True)
                fake = self.discriminator([seen, shown], training=True)
                gan = cross_entropy(1.0, fake)
                disc = cross_entropy(1.0, real) + config.lambda_disc * cross_entropy(0.0, fake)
            l1 = mean_error(config, tf.abs(target - output), mask)
            l2 = mean_error(config, tf.square(target - output), mask)
            gen = config.lambda_gan * gan + config.lambda_l1 * l1 + config.lambda_l2 * l2
            losses = {"generator": gen, "discriminator": disc}
            scaled = {
                name: optimizer.scale_loss(losses[name] / self.replicas)
                for name, optimizer in self.optimizers.items()
            }
        gradients = {
            name: tape.gradient(scaled[name], self.networks[name].trainable_variables)
            for name in self.optimizers
        }
        return tf.stack([gen, gan, l1, l2, disc]), gradients

    def total(self, value: float) -> float:
        """Sum of a value over all replicas; the processes of a cluster must ask together."""
        mine = self.strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant(float(value), tf.float64)
        )
        return float(self.strategy.reduce(tf.distribute.ReduceOp.SUM, mine, axis=None))

    def _inputs(self, seen: tf.Tensor, mask: tf.Tensor) -> Any:
        return [seen, mask] if self.config.mask_input else seen

    def _forward(self, images: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
        inputs = self._inputs(*network_input(self.config, images, boxes))
        return self.averaged(inputs, training=self.config.predict_in_training_mode)

    def variables(self, prefix: str = "") -> dict[str, Any]:
        """Every variable of the run by name: weights, statistics, dropout's seeds, optimisers'."""
        owners = {name: network.variables for name, network in self.networks.items()}
        for name, optimizer in self.optimizers.items():
            inner = getattr(optimizer, "inner_optimizer", optimizer)
            owners[f"{name}_optimizer"] = inner.variables
            taken = {id(variable) for variable in inner.variables}
            owners[f"{name}_{LOSS_SCALE}"] = [v for v in optimizer.variables if id(v) not in taken]
        named = {
            f"{owner}/{index:03d}": variable
            for owner, variables in owners.items()
            for index, variable in enumerate(variables)
        }
        return {name: variable for name, variable in named.items() if name.startswith(prefix)}

    def state(self, prefix: str = "") -> dict[str, np.ndarray]:
        """Values of ``variables``."""
        return {name: variable.numpy() for name, variable in self.variables(prefix).items()}


# %% Prediction: known pixels are copied, never predicted

PREDICTION_BATCH = 16


def fill_with_model(
    model: Pix2Pix, images: tf.Tensor, boxes: tf.Tensor, ensemble: int = 0
) -> tf.Tensor:
    """Fill the holes with the generator, averaged over the first symmetries of the ensemble."""
    total, ensemble = tf.zeros_like(images), ensemble or model.config.ensemble
    for symmetry in SYMMETRIES["eight"][:ensemble]:
        there, back = (
            np.tile(np.array(s, bool), (len(images), 1)) for s in (symmetry, inverse(symmetry))
        )
        turned, moved = apply_symmetry(images, boxes, there)
        output = predict_batch(model, turned, moved)
        total += apply_symmetry(output, moved, back)[0]
    return unscale_pixels(total / ensemble)


def inverse(symmetry: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the symmetry that undoes this one: after a transposition, the mirrors change axis."""
    transpose, rows, columns = symmetry
    return (transpose, columns, rows) if transpose else symmetry


def predict_batch(model: Pix2Pix, images: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Run the generator that predicts.

    In training mode, as the report predicts, a picture's statistics are its own and dropout is on:
    pictures go one by one, dropout starts from its seeds for each, and the model's moving averages
    are put back, so that a prediction depends on nothing but the picture.
    """
    if not model.config.predict_in_training_mode:
        return model.forward(images, boxes)
    dropouts = [x for x in model.averaged.layers if isinstance(x, keras.layers.Dropout)]
    state = [(v, v.numpy()) for v in model.averaged.non_trainable_variables]
    outputs = []
    try:
        for i in range(len(images)):
            for layer in dropouts:
                layer.seed_generator.state.assign([layer.seed, 0])
            outputs.append(model.forward(images[i : i + 1], boxes[i : i + 1]))
    finally:
        for variable, value in state:
            variable.assign(value)
    return tf.concat(outputs, 0)


def fill_with_mean(images: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Fill the holes with the mean colour of the picture's known pixels."""
    known = 1 - hole_mask(boxes)
    return tf.reduce_sum(images * known, [1, 2], True) / tf.reduce_sum(known, [1, 2], True)


BASELINES: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "zeros": lambda images, boxes: tf.zeros_like(images),
    "mean": fill_with_mean,
    "harmonic": tf.function(harmonic_fill, reduce_retracing=True),
}


def predict(
    fill: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], pictures: Pictures
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield composites, float32 [m, 256, 256, 3] in [0, 1], a slice of the pictures at a time."""
    for start in range(0, len(pictures.photos), PREDICTION_BATCH):
        part = slice(start, min(start + PREDICTION_BATCH, len(pictures.photos)))
        boxes = tf.constant(pictures.boxes[part])
        images = tf.constant(pictures.masked[part], tf.float32) / 255
        mask = hole_mask(boxes)
        # A fill without learning may leave [0, 1] by rounding, by 1e-3 where a GPU has TF32.
        filled = tf.clip_by_value(fill(images, boxes), 0, 1)
        yield part, (images * (1 - mask) + filled * mask).numpy()


def fill_with_average(models: Sequence[Pix2Pix], images: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Fill the holes with the mean of the models' fills."""
    return sum(fill_with_model(model, images, boxes) for model in models) / len(models)


def filler(
    predictor: str, models: Sequence[Pix2Pix] = ()
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Return the function that fills holes under the name ``predictor``."""
    return BASELINES.get(predictor) or functools.partial(fill_with_average, models)


# %% Scores


@dataclass(frozen=True)
class Score:
    """How a predictor does on pictures whose truth is known.

    ``square`` is the mean square error of each hole's pixel, [n, 2, 75, 75], over the channels, of
    pixels in [0, 1]; ``filled`` the composites, float32 [n, 256, 256, 3].
    """

    square: np.ndarray
    filled: np.ndarray

    @property
    def rmse(self) -> float:
        """RMSE pooled over all holes; as in the submission, a pixel in both holes counts twice."""
        return math.sqrt(self.square.mean(dtype=np.float64))

    @property
    def each(self) -> np.ndarray:
        """RMSE of each picture: float64 [n]."""
        return np.sqrt(self.square.mean((1, 2, 3), dtype=np.float64))

    def by(self, group: np.ndarray) -> dict[str, float]:
        """RMSE of each group of pixels; ``group`` holds names and broadcasts to ``square``."""
        where = np.broadcast_to(group, self.square.shape)
        return {
            str(name): math.sqrt(self.square[where == name].mean(dtype=np.float64))
            for name in dict.fromkeys(group.ravel().tolist())
        }


def evaluate(fill: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], pictures: Pictures) -> Score:
    """Score a predictor on pictures whose truth is known."""
    squares, shown = [], []
    for part, filled in predict(fill, pictures):
        error = filled - pictures.clean[part].astype(np.float32) / 255
        squares += [
            (crop_holes(one, boxes) ** 2).mean(-1)
            for one, boxes in zip(error, pictures.boxes[part], strict=True)
        ]
        shown.append(filled)
    return Score(np.stack(squares), np.concatenate(shown))


def similarity(pictures: Pictures, filled: np.ndarray) -> float:
    """Mean SSIM of composites with the truth (Wang et al. 2004, doi:10.1109/TIP.2003.819861)."""
    each = []
    for start in range(0, len(filled), PREDICTION_BATCH):
        part = slice(start, start + PREDICTION_BATCH)
        truth = pictures.clean[part].astype(np.float32) / 255
        each.append(tf.image.ssim(filled[part], truth, 1.0))
    return float(np.mean(np.concatenate(each), dtype=np.float64))


DISTANCES = ("1", "2-5", "6-10", "11-20", "21-38")  # to the hole's edge, px


def error_groups(pictures: Pictures) -> dict[str, np.ndarray]:
    """Name groups of hole pixels, to see where the error is: arrays for ``Score.by``."""
    from_side = np.minimum(np.arange(HOLE), np.arange(HOLE)[::-1]) + 1
    distance = np.minimum(from_side[:, None], from_side)
    low = [int(name.split("-")[0]) for name in DISTANCES]
    apart = np.abs(pictures.boxes[:, 0] - pictures.boxes[:, 1])
    at_edge = ((pictures.boxes == 0) | (pictures.boxes == LAST)).any((1, 2))
    place = np.where((apart < HOLE).all(1), "overlapping", np.where(at_edge, "at edge", "apart"))
    return {
        "distance": np.array(DISTANCES)[np.searchsorted(low, distance, "right") - 1],
        "class": np.array([p.label for p in pictures.photos])[:, None, None, None],
        "holes": place[:, None, None, None],
    }


def analyse(score: Score, harmonic: Score, pictures: Pictures) -> dict[str, Any]:
    """Say where the error is, beside the harmonic fill's, and name the extreme pictures."""
    groups = error_groups(pictures)
    names = [pictures.photos[i].name for i in np.argsort(-score.each)]
    return {
        **{f"by_{name}": score.by(group) for name, group in groups.items()},
        "harmonic": {f"by_{name}": harmonic.by(group) for name, group in groups.items()},
        "worst": names[:4],
        "best": names[::-1][:4],
    }


def list_errors(path: Path, score: Score, harmonic: Score, pictures: Pictures) -> None:
    """List each picture's RMSE and the harmonic fill's, the worst first.

    With it runs are compared picture by picture, which tells smaller differences than their scores.
    """
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("image", "class", "rmse", "harmonic_rmse"))
    ours, theirs = score.each, harmonic.each
    for i in np.argsort(-ours):
        photo = pictures.photos[i]
        rows.writerow((photo.name, photo.label, f"{ours[i]:.6f}", f"{theirs[i]:.6f}"))
    write_text(path, table.getvalue())


# %% Submission


@functools.cache
def value_text() -> np.ndarray:
    """Spell every value from 0.000000 to 1.000000, in millionths: S8 [1000001]."""
    millionths = np.arange(1_000_001)
    text = np.full((len(millionths), 8), ord("."), np.uint8)
    for place, column in enumerate((7, 6, 5, 4, 3, 2, 0)):
        text[:, column] = ord("0") + millionths // 10**place % 10
    return text.view("S8")[:, 0]


@functools.cache
def column_text() -> np.ndarray:
    """Spell the end of an id, ``column_channel,``: S6 [256, 3]."""
    return np.array([[f"{x}_{c}," for c in range(3)] for x in range(SIDE)], "S6")


def submission_rows(name: str, boxes: np.ndarray, values: np.ndarray) -> bytes:
    """Spell the 33,750 lines of one picture, vectorised.

    Every line is laid out at one width, padded with NUL bytes, which are then dropped.

    Args:
        name: the picture's file name.
        boxes: int [2, 2], top and left of each hole.
        values: [2, 75, 75, 3] in [0, 1], channels in the submission's order.
    """
    heads = np.array(
        [
            [f"{name}_box{number}_{y}_".encode() for y in range(top, top + HOLE)]
            for number, top in enumerate(boxes[:, 0], start=1)
        ]
    )
    line = [("head", heads.dtype), ("column", "S6"), ("value", "S8"), ("end", "S1")]
    lines = np.empty(values.shape, line)
    lines["head"] = heads[:, :, None, None]
    lines["column"] = column_text()[boxes[:, 1, None] + np.arange(HOLE)][:, None]
    lines["value"] = value_text()[np.rint(values * 1e6).astype(np.int32)]
    lines["end"] = b"\n"
    return lines.tobytes().translate(None, b"\0")


def submission_values(config: Config, picture: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Bring a composite picture's holes to the submission's scale and channel order."""
    if config.value_scale == "minmax":
        low, high = picture.min((0, 1)), picture.max((0, 1))
        picture = (picture - low) / np.maximum(high - low, 1e-6)
    if config.channel_order == "bgr":
        picture = picture[..., ::-1]
    return crop_holes(picture, boxes)


def write_submission(
    config: Config, path: Path, pictures: Pictures, composites: Iterable[tuple[slice, np.ndarray]]
) -> int:
    """Write the gzipped submission, a picture at a time; return its number of rows.

    Raises:
        UserError: naming the picture whose fill is not finite.
    """

    def write(part: Path) -> None:
        with open(part, "wb") as stream:
            pack = zlib.compressobj(1, wbits=31)  # 31: with the header and checksum of gzip
            stream.write(pack.compress(b"filename_box_pixel,value\n"))
            for where, filled in composites:
                each = zip(pictures.photos[where], pictures.boxes[where], filled, strict=True)
                for photo, boxes, picture in each:
                    name, values = photo.name, submission_values(config, picture, boxes)
                    if not np.isfinite(values).all():
                        raise UserError(
                            f"the fill of {name} is not finite: try --precision float32."
                        )
                    text = submission_rows(name, boxes, values)
                    stream.write(pack.compress(text))
            stream.write(pack.flush())

    write_whole(path, write)
    return len(pictures.photos) * 2 * HOLE * HOLE * 3


# %% Checkpoints: one file, everything, written whole


@dataclass
class Progress:
    """Where a run is: steps done, seconds of training, the best validation; and its last step."""

    step: int = 0
    seconds: float = 0.0
    best_rmse: float = math.inf
    end: int = 0


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write named arrays and a JSON record as one ``.npz``."""
    record = np.frombuffer(json.dumps(about).encode(), np.uint8)
    write_whole(path, lambda part: np.savez(part, about=record, **arrays))  # type: ignore[arg-type]


# What reading a file raises that is no whole ``.npz``; one of an unknown compression is, to
# zipfile, not implemented.
DAMAGED = (
    *(OSError, EOFError, ValueError, KeyError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


def read_record(path: Path) -> dict[str, Any]:
    """Read the JSON record of a checkpoint.

    Raises:
        UserError: where the file is no whole checkpoint.
    """
    try:
        with np.load(path) as arrays:
            record = json.loads(arrays["about"].tobytes())
        if not (isinstance(record, dict) and isinstance(record.get("step"), int)):
            raise ValueError("its record names no step")
        return record
    except DAMAGED as failure:
        raise UserError(f"{path} is no whole checkpoint ({failure}): remove it.") from failure


def restore(path: Path, variables: Mapping[str, Any]) -> None:
    """Assign the arrays of a checkpoint to the variables of the same names and shapes.

    A loss scale that is not there, because the run had another precision, begins anew.

    Raises:
        UserError: where the file is no whole checkpoint, or another network's.
    """
    try:
        with np.load(path) as arrays:
            for name, variable in variables.items():
                if name not in arrays and f"_{LOSS_SCALE}/" in name:
                    continue
                value = arrays[name] if name in arrays else None
                if value is None or value.shape != tuple(variable.shape):
                    raise UserError(
                        f"{path} has no fitting {name}: it is of another configuration."
                    )
                variable.assign(value)
    except DAMAGED as failure:
        raise UserError(f"{path} is no whole checkpoint ({failure}): remove it.") from failure


def differences(config: Config, there: Mapping[str, Any]) -> dict[str, Any]:
    """What makes ``config`` another run than the settings of a record, with those that it lacks."""
    there = {f.name: f.default for f in fields(Config)} | dict(there)  # of before a setting came
    return {k: v for k, v in config.settings(session=False).items() if there.get(k) != v}


def refuse_another_run(config: Config, file: Path, remedy: str) -> None:
    """Refuse to go on with the run of a checkpoint or ``run.json``, if its settings differ.

    Raises:
        UserError: naming the first setting that differs, or the file that is of no run.
    """
    try:
        if file.suffix == ".npz":
            there = read_record(file)["config"]
        else:
            there = json.loads(file.read_text(encoding="utf-8"))["config"]
        different = differences(config, there)
    except (*DAMAGED, TypeError, AttributeError):
        raise UserError(f"{file} is not the record of a run of this script: {remedy}.") from None
    for name, value in different.items():
        raise UserError(
            f"{file} is of a run with {name} = {there.get(name)!r}, not {value!r}: {remedy}."
        )


def checkpoints(folder: str) -> list[Path]:
    """Every checkpoint under a folder, also behind links, as Kaggle may mount what is attached."""
    found, seen = [], set()
    for where, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # links may lead in circles
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(set(folders) - set(PICTURES))  # thousands of files on a slow disk
        if "checkpoint.npz" in files:
            found.append(Path(where, "checkpoint.npz"))
    return sorted(found)


def newest_checkpoint(name: str, folder: str, config: Config | None = None) -> Path:
    """Find the checkpoint of the most steps anywhere under the folder that a setting names.

    One of the run of ``config``, if that is given, goes before any other's.

    Raises:
        UserError: where there is none, or none that is whole.
    """
    rank: dict[Path, tuple[bool, int]] = {}
    damaged: list[UserError] = []
    for path in checkpoints(folder):
        try:
            record = read_record(path)
            there = record.get("config")
            same = config is not None and isinstance(there, dict) and not differences(config, there)
            rank[path] = (same, record["step"])
        except UserError as failure:
            damaged.append(failure)
    if not rank and damaged:
        raise damaged[0]
    if not rank:
        raise UserError(
            f"no checkpoint.npz under {name} = {folder}: name a folder that holds a run."
        )
    for words in damaged:
        say(f"left out: {words}")
    return max(rank, key=lambda path: rank[path])


def run_to_adopt(config: Config, out: Path) -> Path | None:
    """Find the checkpoint of the run to go on from, unless ``out`` has one already.

    Raises:
        UserError: where ``resume_from`` holds no checkpoint, or one of other settings.
    """
    if not config.resume_from or (out / "checkpoint.npz").exists():
        return None
    newest = newest_checkpoint("resume_from", config.resume_from, config)
    refuse_another_run(config, newest, "give the settings that it began with")
    return newest


def learned_beside_held_out(checkpoint: Path, dataset: Dataset) -> set[str]:
    """Names of the pictures that a checkpoint's networks have learned from.

    Raises:
        UserError: where one of them is held out here: the same name, with the same holes.
    """
    learned = set(read_record(checkpoint).get("learned_from", ()))
    for name in dataset.validation.names if dataset.validation else ():
        if name in learned:
            raise UserError(
                f"{checkpoint} has learned from {name}, which is held out here: give the data, "
                "limit, split_seed and validation_per_class that it was trained with."
            )
    return learned


def earlier_run(checkpoint: Path) -> tuple[Config, Path]:
    """Settings of the run of a checkpoint, and the file of the weights that it predicts with.

    Raises:
        UserError: where it tells no settings.
    """
    settings, known = read_record(checkpoint).get("config"), {f.name for f in fields(Config)}
    if not isinstance(settings, dict):
        raise UserError(f"{checkpoint} does not tell the settings of its run: name another one.")
    earlier = Config(**{name: value for name, value in settings.items() if name in known})
    best = checkpoint.with_name("best.npz")
    return earlier, best if earlier.export == "best" and best.exists() else checkpoint


def load_members(config: Config, dataset: Dataset) -> list[Pix2Pix]:
    """Load the networks with which the runs under ``members`` predict.

    Raises:
        UserError: where there is none, or one has learned from pictures that are held out here.
    """
    folders = [name.strip() for name in config.members.split(",") if name.strip()]
    every = (path for folder in folders for path in checkpoints(folder))
    found = list({path.resolve(): path for path in every}.values())
    if not found:
        raise UserError(f"no checkpoint.npz under members = {config.members!r}: name run folders.")
    models = []
    for path in found:
        learned_beside_held_out(path, dataset)
        earlier, weights = earlier_run(path)
        model = Pix2Pix(dataclasses.replace(earlier, precision=config.precision))
        restore(weights, model.variables(model.predicting))
        models.append(model)
    say(f"averaging {len(models)} networks: " + ", ".join(str(path.parent) for path in found))
    return models


# %% Logs and pictures


class Logs:
    """The three logs of a run; on resuming, CSV and JSON lines are cut back to the checkpoint."""

    def __init__(self, out: Path, step: int) -> None:
        self.rows, self.lines = out / "training_log.csv", out / "metrics.jsonl"
        header = ",".join(("step", *LOSSES, "images_per_second", "input_share")) + "\n"
        kept_rows, kept_lines = header, ""
        if step and self.rows.exists():
            kept_rows += "".join(
                row for row in whole_lines(self.rows)[1:] if int(row.split(",")[0]) <= step
            )
        if step and self.lines.exists():
            kept_lines = "".join(
                line for line in whole_lines(self.lines) if json.loads(line)["step"] <= step
            )
        for path, text in ((self.rows, kept_rows), (self.lines, kept_lines)):
            write_text(path, text)
        self.board = tf.summary.create_file_writer(str(out / "tensorboard"))

    def training(self, step: int, losses: np.ndarray, speed: float, share: float) -> None:
        """Log one interval: mean losses, images a second, share of the time spent on input."""
        with open(self.rows, "a", encoding="utf-8") as stream:
            stream.write(
                ",".join([str(step), *(f"{v:.6g}" for v in (*losses, speed, share))]) + "\n"
            )
        named = dict(zip(LOSSES, map(float, losses), strict=True))
        self.record(step, {**named, "images_per_second": speed, "input_share": share})

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Log values at a step to JSON lines and TensorBoard."""
        with open(self.lines, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        with self.board.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def picture(self, step: int, path: Path) -> None:
        """Show a picture in TensorBoard."""
        with self.board.as_default(step), Image.open(path) as image:
            tf.summary.image(path.stem, np.asarray(image.convert("RGB"))[None])
        self.board.flush()


def whole_lines(path: Path) -> list[str]:
    """Read the lines of a text file, with their ends; one that a full disk cut off is left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]


def draw_predictions(path: Path, rows: Sequence[Sequence[np.ndarray]]) -> None:
    """Draw pictures in [0, 1] beside each other: masked, predicted, and the truth where known."""
    gap, columns = 8, max(map(len, rows))
    step = SIDE + gap
    sheet = np.full((len(rows) * step - gap, columns * step - gap, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            pixels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
            sheet[i * step : i * step + SIDE, j * step : j * step + SIDE] = pixels
    write_whole(path, Image.fromarray(sheet).save)


def sample_rows(pictures: Pictures, filled: np.ndarray, count: int) -> list[list[np.ndarray]]:
    """Rows for ``draw_predictions``: ``count`` pictures spread over the first ones, as filled."""
    picks = np.unique(np.linspace(0, len(filled) - 1, count).astype(int))
    rows = []
    for i in picks:
        row = [pictures.masked[i] / 255, filled[i]]
        rows.append(row if pictures.clean is None else [*row, pictures.clean[i] / 255])
    return rows


def draw_losses(out: Path) -> None:
    """Draw a run's losses, and below them its validations beside the harmonic fill."""
    from matplotlib.figure import Figure

    with open(out / "training_log.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    records = map(json.loads, whole_lines(out / "metrics.jsonl"))
    ratios = {r["step"]: r["validation_ratio"] for r in records if "validation_ratio" in r}
    if not rows:
        return
    steps = [int(row["step"]) for row in rows]
    figure = Figure((9, 7), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    # A total of one part is drawn as that part.
    losses = {tuple(float(row[name]) for row in rows): name for name in LOSSES}
    for values, name in losses.items():
        if any(values):  # a loss that is switched off is 0
            above.plot(steps, values, label=name, linewidth=1)
    above.set(ylabel="loss", yscale="log")
    below.plot(list(ratios), list(ratios.values()), marker="o", markersize=3, label="this run")
    below.axhline(1, color="black", linewidth=0.8, linestyle="--", label="harmonic fill")
    below.set(xlabel="step", ylabel="validation RMSE / harmonic fill")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend()
    write_whole(out / "loss_curve.png", lambda part: figure.savefig(part, dpi=120))


def draw_errors(path: Path, analysis: Mapping[str, Any], score: Score, pictures: Pictures) -> None:
    """Draw where the error is, beside the harmonic fill's, and the worst and best pictures."""
    from matplotlib.figure import Figure

    figure = Figure((11, 10), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 2.2))
    charts, shown = halves
    for axes, name in zip(
        charts.subplots(1, 3, sharey=True), ("distance", "class", "holes"), strict=True
    ):
        ours, theirs = analysis[f"by_{name}"], analysis["harmonic"][f"by_{name}"]
        for shift, values, label in ((-0.2, theirs, "harmonic fill"), (0.2, ours, "this run")):
            axes.bar(np.arange(len(ours)) + shift, [values[k] for k in ours], 0.4, label=label)
        axes.set_xticks(range(len(ours)), list(ours))
        axes.set_xlabel({"distance": "distance to the hole's edge, px"}.get(name, name))
    axes.legend()
    charts.axes[0].set_ylabel("RMSE over the holes")
    order = np.argsort(-score.each)
    worst_first, best_first = order[:4], order[::-1][:4]
    grid = shown.subplots(len(worst_first), 6, squeeze=False)
    for row, worst, best in zip(grid, worst_first, best_first, strict=True):
        for start, index in ((0, worst), (3, best)):
            kinds = (pictures.masked[index], score.filled[index], pictures.clean[index])
            for axes, picture in zip(row[start : start + 3], kinds, strict=True):
                axes.imshow(picture)
            row[start].set_ylabel(f"{score.each[index]:.3f}")
    for axes, title in zip(
        grid[0], ("worst", "filled", "truth", "best", "filled", "truth"), strict=True
    ):
        axes.set_title(title)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    write_whole(path, lambda part: figure.savefig(part, dpi=110))


# %% Training


class Stop:
    """Whether to end training: on SIGTERM, Ctrl-C, or when the time budget is spent.

    Outside of its ``with`` a signal ends the process: there is nothing then that could be lost.
    """

    def __init__(self, config: Config, began: float) -> None:
        # Prediction and the outputs come after training: keep a tenth, at most ten minutes.
        budget = config.time_budget * 3600
        self.deadline = began + budget - min(600, budget / 10)
        self.reason = ""
        self.earlier: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # signals go nowhere else
            for number in (signal.SIGTERM, signal.SIGINT):
                self.earlier[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.earlier.items():
            signal.signal(number, handler)

    def _signalled(self, number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        self.reason = signal.Signals(number).name
        with contextlib.suppress(OSError):  # print may be what was interrupted
            os.write(2, f"{self.reason}: saving and predicting; once more ends at once\n".encode())

    def __bool__(self) -> bool:
        if not self.reason and time.monotonic() > self.deadline:
            self.reason = "time budget"
        return bool(self.reason)


def clock(seconds: float) -> str:
    """Spell a duration as h:mm:ss."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


UNPLANNED = 2**30  # the last step of a training in hours, until its speed is known


class Training:
    """A training run in its folder: it goes on from the checkpoint that lies there.

    The order on resuming: networks are built, then every variable is taken from the checkpoint,
    then the logs are cut back to its step, then the pipeline starts at that step. Of the processes
    of a cluster, all train and only the one that leads writes.

    Raises:
        UserError: where the processes of a cluster find different checkpoints or photos.
    """

    def __init__(
        self, config: Config, dataset: Dataset, out: Path, strategy: tf.distribute.Strategy
    ) -> None:
        keras.utils.set_random_seed(config.seed)
        self.config, self.dataset, self.out, self.strategy = config, dataset, out, strategy
        self.model = Pix2Pix(config, strategy)
        self.progress = Progress(end=UNPLANNED if config.hours else config.steps)
        self.leading = leads(strategy)
        self.alone = not is_cluster(strategy)
        self.checkpoint = out / "checkpoint.npz"
        self.learned = set(dataset.training.names if dataset.training else ())
        self._introduce()
        if self.checkpoint.exists():
            self._resume()
        elif config.start_from:
            self._take_over(newest_checkpoint("start_from", config.start_from))
        self._agree(self.progress.step, f"different checkpoints: let them share --out {out}")
        count = len(dataset.training.photos) if dataset.training else 0
        self._agree(count, "different numbers of photos: give them the same --data and --cache")
        self.model.end.assign(self.progress.end)

    def _agree(self, number: int, otherwise: str) -> None:
        if self.model.total(number) != self.model.replicas * number:
            raise UserError(f"the workers find {otherwise}.")

    def _introduce(self) -> None:
        policy = keras.config.dtype_policy().name
        shared, compiled = self.model.replicas, self.model.compiled
        say(f"devices sharing a step: {shared}; precision: {policy}; XLA compiles {compiled}")
        for name in self.model.optimizers:
            say(f"{name}: {parameters(self.model.networks[name])}")
        each, once = training_flops(self.model) / 1e9, update_flops(self.model) / 1e9
        update = f", and {once:.3g} for the update" if once else ""
        say(f"a step: {each:.3g} GFLOP an image{update}")

    def _take_over(self, checkpoint: Path) -> None:
        """Start with the generator of an earlier run."""
        self.learned |= learned_beside_held_out(checkpoint, self.dataset)
        earlier, weights = earlier_run(checkpoint)
        prefix = predicting_prefix(earlier)
        for mine in {"generator/", self.model.predicting}:
            names = self.model.variables(mine).items()
            restore(weights, {prefix + name.removeprefix(mine): value for name, value in names})
        say(f"starting with the generator of {weights}")

    def _resume(self) -> None:
        record = read_record(self.checkpoint)
        self.learned |= learned_beside_held_out(self.checkpoint, self.dataset)
        restore(self.checkpoint, self.model.variables())
        best = self.out / "best.npz"  # may be of a later validation than the checkpoint
        best_rmse = read_record(best)["best_rmse"] if best.exists() else math.inf
        step, seconds, end = record["step"], record["seconds"], self.config.steps
        if self.config.hours:  # with the same ones, what is done stays done
            same = record["config"].get("hours") == self.config.hours
            end = record["end"] if same else self._end_in_hours(step, seconds)
        self.progress = Progress(step, seconds, best_rmse, end)
        say(f"resumed at step {step} after {clock(seconds)} of training")

    def _end_in_hours(self, step: int, seconds: float) -> int:
        """The step at which the hours are over, at the speed so far; this one, if they are."""
        return max(step, round(step * self.config.hours * 3600 / seconds)) if step else UNPLANNED

    def _plan(self) -> None:
        """Let a training in hours end with them; the workers of a cluster plan together."""
        if self.config.hours:
            seconds = time.monotonic() - self.began
            if not self.alone:
                seconds = self.model.total(seconds) / self.model.replicas
            self.progress.end = self._end_in_hours(self.progress.step, seconds)
            self.model.end.assign(self.progress.end)

    def run(self, stop: Stop) -> None:
        """Train until the last step or until ``stop``; a cluster agrees on stopping when it logs.

        Raises:
            UserError: when a loss is not finite, naming the step.
        """
        config, progress = self.config, self.progress
        if self.dataset.training is None or self.dataset.validation is None:
            return
        if self.leading:
            self.logs = Logs(self.out, progress.step)
            self.harmonic = evaluate(filler("harmonic"), self.dataset.validation).rmse
            if not progress.step:
                self._validate()  # what is wrong with predicting shows before hours of training
        batches = iter(self.strategy.distribute_datasets_from_function(self._batches))
        self.began = time.monotonic() - progress.seconds
        train_steps = self.model.train_steps
        if progress.step < progress.end:  # XLA compiles in the first call
            train_steps.get_concrete_function(batches.element_spec)
        self.interval, trace = Interval(config), Trace(config, self.out, progress.step)
        stopping = self.model.total(bool(stop)) > 0
        for _, done in spans_of_calls(config, progress.step, self._limit()):
            if stopping or progress.step >= progress.end:
                break
            trace.before(progress.step)
            self.interval.losses.append(train_steps(self.interval.timed(batches)))
            progress.step = done
            logging = any(done % n == 0 for n in (config.log_every, config.validate_every))
            logging = logging or done >= progress.end
            if self.alone or logging:
                self._plan()
                stopping = bool(stop) if self.alone else self.model.total(bool(stop)) > 0
            last = done >= progress.end
            saving = last or stopping or done % config.checkpoint_every == 0
            if logging or saving:
                self._log()
            if self.leading and (last or done % config.validate_every == 0):
                self._validate()
            if self.leading and saving:
                self._save()
            if logging or saving:
                self.interval = Interval(config)
        trace.close()
        if progress.step < progress.end:
            why = stop.reason or "another worker"
            say(f"stopped at step {progress.step} by {why}; the same command goes on from here")
        if self.leading and progress.step and progress.best_rmse == math.inf:
            self._validate()

    def _limit(self) -> float:
        """The step that none is after; infinite where hours say it."""
        return math.inf if self.config.hours else self.progress.end

    def _batches(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Examples of this process's replicas."""
        assert self.dataset.training is not None
        replicas, steps = self.model.replicas, (self.progress.step, self._limit())
        local = replicas // context.num_input_pipelines
        mine = range(local * context.input_pipeline_id, local * (context.input_pipeline_id + 1))
        return training_batches(self.config, self.dataset.training, *steps, replicas, mine)

    def _log(self) -> None:
        config, progress = self.config, self.progress
        progress.seconds = time.monotonic() - self.began
        losses, speed, share = self.interval.close()  # waits for the device
        check_finite(losses, progress.step, self.checkpoint)
        if not self.leading:
            return
        means = losses.mean(0)
        self.logs.training(progress.step, means, speed, share)
        left = (progress.end - progress.step) * config.batch_size / speed
        shown = " | ".join(f"{name} {mean:.4g}" for name, mean in zip(LOSSES, means, strict=True))
        say(
            f"step {progress.step}/{progress.end} | {shown} | {speed:.3g} img/s | "
            f"input {share:.1%} | eta {clock(left)}"
        )

    def _validate(self) -> None:
        """Score in one pass: the ensemble would take long, and gains the same each time."""
        progress, validation = self.progress, self.dataset.validation
        assert validation is not None
        score = evaluate(functools.partial(fill_with_model, self.model, ensemble=1), validation)
        rmse, ratio = score.rmse, score.rmse / self.harmonic
        self.logs.record(progress.step, {"validation_rmse": rmse, "validation_ratio": ratio})
        say(f"validation at step {progress.step}: rmse {rmse:.4f} | ratio {ratio:.3f}")
        if progress.step and rmse < progress.best_rmse:
            progress.best_rmse = rmse
            best = self.model.state(self.model.predicting)
            save_arrays(self.out / "best.npz", best, dataclasses.asdict(progress))
        picture = self.out / "predictions.png"
        draw_predictions(picture, sample_rows(validation, score.filled, 8))
        self.logs.picture(progress.step, picture)

    def _save(self) -> None:
        state = self.model.state()
        if not all(np.isfinite(values).all() for values in state.values()):
            raise diverged(f"the weights after step {self.progress.step}", self.checkpoint)
        about = dataclasses.asdict(self.progress) | {"config": dataclasses.asdict(self.config)}
        save_arrays(self.checkpoint, state, about | {"learned_from": sorted(self.learned)})


class Trace:
    """Traces some steps for TensorBoard's profiler, after ten which are still warming up."""

    def __init__(self, config: Config, out: Path, first: int) -> None:
        self.folder, self.steps = out / "tensorboard", config.profile
        self.begin, self.end = first + 10, 0
        self.running = False

    def before(self, step: int) -> None:
        """Start or stop before a call's first step; what is traced are whole calls."""
        if self.running and step >= self.end:
            self.close()
        elif self.steps and not self.end and step >= self.begin:
            tf.profiler.experimental.start(str(self.folder))
            self.running, self.end = True, step + self.steps

    def close(self) -> None:
        """Write the trace, if one is running."""
        if self.running:
            tf.profiler.experimental.stop()
            self.running = False
            say(f"traced: tensorboard --logdir {self.folder}, then Profile")


class Interval:
    """What happened since the last log line: losses, still on the device, and the time it took."""

    def __init__(self, config: Config) -> None:
        self.batch_size = config.batch_size
        self.losses: list[tf.Tensor] = []  # of each call, [steps, kinds]
        self.began, self.waited = time.monotonic(), 0.0

    def timed(self, batches: Iterator[Any]) -> Any:
        """Take the next batch and count the time that it was waited for."""
        asked = time.monotonic()
        batch = next(batches)
        self.waited += time.monotonic() - asked
        return batch

    def close(self) -> tuple[np.ndarray, float, float]:
        """Return losses [steps, kinds], images a second and the share of waiting."""
        losses = tf.concat(self.losses, 0).numpy()
        elapsed = max(time.monotonic() - self.began, 1e-9)
        return losses, len(losses) * self.batch_size / elapsed, self.waited / elapsed


def check_finite(losses: np.ndarray, step: int, checkpoint: Path) -> None:
    """Stop at the first step whose losses are not finite; ``step`` is the last one's.

    Raises:
        UserError: naming that step and the checkpoint that is still whole.
    """
    bad = np.flatnonzero(~np.isfinite(losses).all(1))
    if len(bad):
        raise diverged(f"the losses of step {step - len(losses) + 1 + bad[0]}", checkpoint)


def diverged(what: str, checkpoint: Path) -> UserError:
    """Make the error of a training that has left the finite numbers."""
    remedy = "start anew with a lower learning_rate or lower loss weights"
    if checkpoint.exists() and keras.config.dtype_policy().name == "mixed_float16":
        remedy = f"go on from {checkpoint} with --precision float32, or {remedy}"
    return UserError(f"{what} are not finite: {remedy}.")


def forward_flops(network: keras.Model) -> int:
    """Operations of one picture's way through a network: its convolutions and attention.

    A multiplication and its addition are two.
    """
    total = 0
    for layer in network.layers:
        transposed = isinstance(layer, keras.layers.Conv2DTranspose)
        shape = (layer.input if transposed else layer.output).shape
        kernels = sum(math.prod(w.shape) for w in layer.trainable_weights if len(w.shape) > 2)
        total += 2 * kernels * math.prod(shape[1:-1])
        if isinstance(layer, keras.layers.MultiHeadAttention):
            total += 4 * shape[1] ** 2 * layer.num_heads * layer.key_dim
    return total


def training_flops(model: Pix2Pix) -> int:
    """Operations of one picture's share of a step, without what is no convolution or attention.

    Each pass back costs two forward; the discriminator sees two pairs, goes back through both, and
    once more, to its input alone, for the generator.
    """
    passes = {"generator": 3, "discriminator": 2 + 4 + 1}
    return sum(passes[name] * forward_flops(model.networks[name]) for name in model.optimizers)


def update_flops(model: Pix2Pix) -> int:
    """Operations of a step's update by Muon, whatever the batch; Adam's are not worth counting."""
    optimizers = (getattr(each, "inner_optimizer", each) for each in model.optimizers.values())
    return sum(each.flops() for each in optimizers if isinstance(each, Muon))


def parameters(network: keras.Model) -> str:
    """Count a network's parameters, in words."""
    trainable = sum(math.prod(v.shape) for v in network.trainable_weights)
    fixed = sum(math.prod(v.shape) for v in network.non_trainable_weights)
    return f"{trainable:,} trainable and {fixed:,} non-trainable parameters"


# %% The run


def describe_machine() -> dict[str, Any]:
    """What the run is on: GPUs by name, cores, free memory."""
    return {
        "gpus": [gpu["device_name"] for gpu in gpus()],
        "cores": os.cpu_count(),
        "free_memory_gb": round(free_memory() / 1e9, 1),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions of what a result may depend on."""
    own = Path(__file__).read_bytes() if "__file__" in globals() else b""
    return {
        "script_sha256": hashlib.sha256(own).hexdigest(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
    }


def save_networks(model: Pix2Pix, out: Path) -> None:
    """Save the generator that predicts as ``.h5`` and ``.keras``, the discriminator as ``.h5``."""
    absl.logging.set_verbosity(absl.logging.ERROR)  # Keras warns that .h5 is a legacy format
    generator = stock_layers(model.averaged)
    write_whole(out / "generator.h5", generator.save)
    write_whole(out / "generator.keras", generator.save)
    if "discriminator" in model.networks:
        write_whole(out / "discriminator.h5", stock_layers(model.networks["discriminator"]).save)


OUTPUTS = (  # what a run writes beside TensorBoard's events, before run.json
    *("generator.h5", "generator.keras", "discriminator.h5", "checkpoint.npz", "best.npz"),
    *("training_log.csv", "metrics.jsonl", "loss_curve.png", "predictions.png"),
    *("errors.csv", "errors.png", "submission.csv.gz"),
)


def describe_files(out: Path) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of every file of the run; the folder may hold others', as Kaggle's."""
    records = []
    board = sorted((out / "tensorboard").rglob("*"))
    for path in [*(out / name for name in OUTPUTS), *board]:
        if path.is_file():
            with open(path, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            name = path.relative_to(out).as_posix()
            records.append({"name": name, "size": path.stat().st_size, "sha256": digest})
    return records


def open_run_folder(config: Config) -> Path:
    """Make the run folder, or see that what lies there is of this run.

    Raises:
        UserError: where it is no folder, can't be made, or holds another run.
    """
    default = "/kaggle/working" if os.path.isdir("/kaggle/working") else "runs/local"
    if "://" in config.out:
        raise UserError(f"out = {config.out}: give a folder; a bucket must be mounted as one.")
    out = Path(config.out or default)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise UserError(
            f"{out} can't be made ({failure.strerror}): choose another --out."
        ) from None
    there = [out / name for name in ("checkpoint.npz", "run.json") if (out / name).exists()]
    for file in there[:1]:
        refuse_another_run(config, file, "choose another --out, or remove the folder")
    return out


def begin_session(out: Path, newest: Path | None) -> None:
    """Make the run folder that of an unfinished run, with ``newest`` to go on from, if any."""
    if newest:
        for name in ("best.npz", "training_log.csv", "metrics.jsonl", "checkpoint.npz"):
            if (newest.parent / name).exists():
                source = newest.parent / name
                write_whole(out / name, functools.partial(shutil.copyfile, source))
        say(f"going on from {newest}")
    if not (out / "checkpoint.npz").exists():  # of a session that was killed before it saved
        (out / "best.npz").unlink(missing_ok=True)
    (out / "run.json").unlink(missing_ok=True)
    for name in (*OUTPUTS, "run.json"):
        for part in out.glob(f".[0-9]*.{name}"):  # of a session that was killed while it wrote
            part.unlink()


def find_networks(
    config: Config, dataset: Dataset, out: Path, strategy: tf.distribute.Strategy, stop: Stop
) -> tuple[list[Pix2Pix], Progress]:
    """Train the network that fills, or load those of earlier runs; a baseline needs none."""
    if config.predictor == "average":
        return load_members(config, dataset), Progress()
    if config.predictor != "model":
        return [], Progress()
    training = Training(config, dataset, out, strategy)
    training.run(stop)
    model, best = training.model, out / "best.npz"
    if training.leading and config.export == "best" and best.exists():
        restore(best, model.variables(model.predicting))
    return [model], training.progress


def score_held_out(
    config: Config, held_out: Pictures | None, models: Sequence[Pix2Pix], out: Path
) -> tuple[dict[str, Any], list[list[np.ndarray]]]:
    """Score a run's fill beside the baselines, and write where its error is.

    Returns the metrics and rows of pictures; nothing where no truth is known.
    """
    if not held_out:
        return {}, []
    names = dict.fromkeys([*BASELINES, config.predictor])
    scores, ssim = {}, {}
    for name in names:
        each = evaluate(filler(name, models), held_out)
        ssim[name] = similarity(held_out, each.filled)
        if name != config.predictor:  # 0.8 MB a picture, for nothing
            each = dataclasses.replace(each, filled=each.filled[:0].copy())  # a view keeps all
        scores[name] = each
    score, harmonic = scores[config.predictor], scores["harmonic"]
    metrics = {
        "hole_rmse": {name: each.rmse for name, each in scores.items()},
        "ratio_to_harmonic": {n: each.rmse / harmonic.rmse for n, each in scores.items()},
        "ssim": ssim,
        "analysis": analyse(score, harmonic, held_out),
    }
    list_errors(out / "errors.csv", score, harmonic, held_out)
    draw_errors(out / "errors.png", metrics["analysis"], score, held_out)
    return metrics, sample_rows(held_out, score.filled, 6)


def predict_test(
    config: Config,
    test: Pictures,
    models: Sequence[Pix2Pix],
    out: Path,
    rows: list[list[np.ndarray]],
) -> int:
    """Fill the test pictures; write the submission, and two of them below ``rows``.

    Returns the submission's number of rows.
    """
    say("predicting the test pictures")
    composites = predict(filler(config.predictor, models), test)
    first = next(composites)
    every = itertools.chain([first], composites)
    count = write_submission(config, out / "submission.csv.gz", test, every)
    draw_predictions(out / "predictions.png", [*rows, *sample_rows(test, first[1], 2)])
    return count


def run(config: Config) -> None:
    """Do the whole run that ``config`` describes; ``run.json``, written last, says what came out.

    Raises:
        UserError: for anything that the user can mend.
    """
    began = time.monotonic()
    machine, using = describe_machine(), versions()
    for what, told in (("versions", using), ("device", machine), ("config", config.__dict__)):
        say(f"{what}: {json.dumps(told)}")
    strategy = prepare_devices(config)
    out = open_run_folder(config)
    newest = run_to_adopt(config, out) if leads(strategy) else None
    dataset = load_dataset(config)
    if leads(strategy):
        begin_session(out, newest)
    with Stop(config, began) as stop:
        models, progress = find_networks(config, dataset, out, strategy, stop)
    if not leads(strategy):
        say("this worker is done; the one that leads predicts and writes")
        return
    metrics, rows = score_held_out(config, dataset.validation, models, out)
    count = predict_test(config, dataset.test, models, out, rows)
    if config.predictor == "model":
        save_networks(models[0], out)
        if (out / "training_log.csv").exists():  # 0 steps without training pictures leave none
            draw_losses(out)

    result: dict[str, Any] = {
        "schema": 1,
        "status": "complete" if progress.step >= progress.end else "stopped",
        "config": dataclasses.asdict(config),
        "versions": using,
        "device": machine,
        "step": progress.step,
        "steps": progress.end if progress.end != UNPLANNED else 0,
        "seconds": round(time.monotonic() - began, 1),
        "training_seconds": round(progress.seconds, 1),
        "parameters": sum(model.generator.count_params() for model in models),
        "gflop_per_image": sum(training_flops(model) for model in models) / 1e9,
        "gflop_per_update": sum(update_flops(model) for model in models) / 1e9,
        "pictures": {
            name: len(part.photos)
            for name in ("training", "validation", "test")
            if (part := getattr(dataset, name))
        },
        "metrics": metrics,
        "submission": {
            "file": "submission.csv.gz",
            "rows": count,
            "channel_order": config.channel_order,
            "value_scale": config.value_scale,
        },
        "files": describe_files(out),
    }
    write_text(out / "run.json", json.dumps(result, indent=2) + "\n")
    for name, value in metrics.get("hole_rmse", {}).items():
        ratio, ssim = metrics["ratio_to_harmonic"][name], metrics["ssim"][name]
        say(f"{name}: rmse {value:.4f} | ratio {ratio:.3f} | ssim {ssim:.4f}")
    say(f"{result['status']} after {clock(result['seconds'])}; everything is in {out}")


LOST_WORKER = (  # what the others of a cluster get, by the moment at which one is lost
    *(tf.errors.UnavailableError, tf.errors.AbortedError),
    *(tf.errors.CancelledError, tf.errors.InternalError),
)


def in_one_line(failure: tf.errors.OpError) -> str:
    """Spell a failure inside TensorFlow that the user can mend; nothing for any other."""
    first = re.sub(r"\{\{.*?\}\} ?", "", failure.message).splitlines()[0]
    if told := re.search(r"^(?:\w+\.)?UserError: (.+)$", failure.message, re.MULTILINE):
        return told[1]  # raised while input was read
    if isinstance(failure, tf.errors.ResourceExhaustedError):
        if "No space left" in failure.message:
            return "the disk is full: make room; the last checkpoint is whole."
        return "out of memory: lower batch_size or width; the last checkpoint is whole."
    if re.search(r"XLA|libdevice|ptxas", failure.message):
        return f"XLA failed ({first}): give --xla off."
    if cluster_size() > 1 and isinstance(failure, LOST_WORKER):
        return (
            f"a worker of the cluster is gone ({first}): start all of them again; training goes "
            "on from the last checkpoint."
        )
    return first if "gs://" in first else ""


def main() -> None:
    """Run with the settings of the preset, ``OVERRIDES`` and the command line, in this order."""
    arguments = [] if "ipykernel" in sys.modules else sys.argv[1:]  # a notebook's are Jupyter's
    try:
        given, only_print = command_line(arguments)
        config = make_config({**OVERRIDES, **given})
        if only_print:
            parts = {
                "run": config.settings(session=False),
                "session": config.settings(session=True),
            }
            print(json.dumps(parts, indent=2))
        else:
            run(config)
    except UserError as failure:
        sys.exit(f"error: {failure}")
    except OSError as failure:
        sys.exit(f"error: {failure.filename or 'input or output'}: {failure.strerror or failure}.")
    except tf.errors.OpError as failure:
        line = in_one_line(failure)
        if not line:
            raise
        sys.exit(f"error: {line}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
