"""``tools score``: what submissions would score, where the truth of the test set is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tools import console, paired, settings, submission_file
from tools.errors import UserError
from tools.holes import HOLE, SIDE, TRUTH, Holes
from tools.submission_source import holes_to_fill, named, warn


def run(submissions: Sequence[str], data: Path | None, as_json: bool) -> None:
    """Score submissions of one test set as the competition does, and compare with the first.

    Raises:
        UserError: the truth is not there or not readable, or a submission is faulty.
    """
    project = settings.project_folder()
    chosen = settings.load(project)
    newest: list[str | None] = [None]
    asked = [named(what) for what in submissions or newest]
    holes = holes_to_fill(project, chosen, data)
    truth = true_values(holes, chosen)
    rows: list[dict[str, Any]] = []
    first = None
    for writer, file in asked:
        if writer:
            warn(writer, chosen)
        console.note(f"scoring {file}")
        gaps = submission_file.values(file, holes) - truth
        squares = np.square(gaps, out=gaps).mean((1, 2, 3, 4))
        row = {"file": str(file), "rmse": math.sqrt(squares.mean())}
        if first is None:
            first = squares
        elif first.any() and squares.any():
            row["to_first"], influence = paired.rmse_ratio(squares, first)
            row["to_first_error"] = paired.standard_error(influence)
        rows.append(row)
    if as_json:
        console.print_json({"pictures": len(truth), "submissions": rows})
        return
    console.print_table(
        ("submission", "RMSE", "to the first"),
        [
            (
                row["file"],
                f"{row['rmse']:.5f}",
                console.with_error(f"{row['to_first']:.4f}", row["to_first_error"])
                if "to_first" in row
                else "",
            )
            for row in rows
        ],
    )
    if len(rows) > 1:
        console.note("to the first: ratio of the RMSEs ± its standard error over the pictures")


def true_values(holes: Holes, chosen: settings.Settings) -> np.ndarray:
    """What a perfect submission holds, written as the project's settings say.

    Returns:
        (images, 2, 75, 75, 3) in [0, 1].

    Raises:
        UserError: the truth of a picture is missing, damaged or of another size.
    """
    folder = holes.source.parent.with_name(TRUTH)
    if not folder.is_dir():
        raise UserError(
            f"There is no {folder}, so that nobody here knows the truth.",
            "Score a dataset of `tools make-dataset`; for the competition's, use `tools submit`.",
        )
    truth = np.empty((len(holes.names), 2, HOLE, HOLE, 3))
    for pair, name, corners in zip(truth, holes.names, holes.corners, strict=True):
        picture = _read(folder / name.decode())
        if chosen.value_scale == "minmax":
            low, high = picture.min((0, 1)), picture.max((0, 1))
            picture = (picture - low) / np.maximum(high - low, 1e-6)
        if chosen.channel_order == "bgr":
            picture = picture[..., ::-1]
        for hole, (top, left) in zip(pair, corners, strict=True):
            hole[:] = picture[top : top + HOLE, left : left + HOLE]
    return truth


def _read(path: Path) -> np.ndarray:
    """A picture of (256, 256, 3) in [0, 1]."""
    try:
        with Image.open(path) as image:
            if image.size != (SIDE, SIDE):
                raise UserError(f"{path} has {image.width}x{image.height} pixels, not 256x256.")
            return np.asarray(image.convert("RGB")) / 255
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as failure:
        why = getattr(failure, "strerror", None) or failure
        raise UserError(f"{path} cannot be read: {why}.") from None
