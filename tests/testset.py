"""A made-up test set and submissions for it: what the tools read of them, without any picture."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterable
from pathlib import Path

HEADER = "filename_box_pixel,value"
SPOTS = [
    ("cat_1.jpg", 101, 37, 0, 181),
    ("dog 2.jpg", 132, 64, 125, 102),
    ("é3.jpg", 181, 0, 9, 99),
]


def write_test_set(folder: Path, spots: Iterable[tuple] = SPOTS) -> Path:
    """``Testing_Data/masked_info.csv`` under ``folder``; returns ``folder``."""
    path = folder / "Dataset" / "Testing_Data" / "masked_info.csv"
    path.parent.mkdir(parents=True)
    rows = [",".join(map(str, (index, *spot))) for index, spot in enumerate(spots)]
    path.write_bytes("\r\n".join([",filename,y1,x1,y2,x2", *rows, ""]).encode())
    return folder


def random_spots(images: int) -> list[tuple]:
    """As many pictures, with holes anywhere."""
    draw = random.Random(7)
    return [(f"cat_{i}.jpg", *(draw.randint(0, 181) for _ in range(4))) for i in range(images)]


def rows(spots: Iterable[tuple] = SPOTS, value: str = "0.411765") -> list[str]:
    """The rows of a right submission, in the canonical order."""
    return [
        f"{name}_box{box + 1}_{top + row}_{left + column}_{channel},{value}"
        for name, *corners in spots
        for box, (top, left) in enumerate((corners[:2], corners[2:]))
        for row in range(75)
        for column in range(75)
        for channel in range(3)
    ]


def write_submission(
    path: Path, lines: Iterable[str] | None = None, newline: str = "\n", last: str = "\n"
) -> Path:
    """A submission's file; compressed if its name ends in ``.gz``."""
    text = newline.join([HEADER, *(rows() if lines is None else lines)]) + last
    open_file: Callable = gzip.open if path.suffix == ".gz" else open
    with open_file(path, "wb") as file:
        file.write(text.encode())
    return path
