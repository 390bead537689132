"""Where the holes of a test set are: ``masked_info.csv``, and the submission that it implies."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.errors import UserError

SIDE, HOLE, CHANNELS = 256, 75, 3
HOLE_VALUES = HOLE * HOLE * CHANNELS
MASKED_INFO = "masked_info.csv"
TRUTH = "Testing_Truth"  # where `tools make-dataset` keeps the test pictures without holes

_LARGEST = 1 << 20
_UNSAFE_NAME = re.compile(r'[\x00-\x1f\x7f,"/\\]')


@dataclass(frozen=True)
class Holes:
    """Where the holes of a test set are.

    ``corners`` is (images, 2, 2): for each image's two holes, the top row and the left column.
    """

    source: Path
    names: tuple[bytes, ...]
    corners: np.ndarray

    @property
    def rows(self) -> int:
        """How many values a complete submission has."""
        return len(self.names) * 2 * HOLE_VALUES

    def identifier(self, index: int) -> str:
        """The identifier at ``index`` of the canonical order: file, box, row, column, channel."""
        image, rest = divmod(index, 2 * HOLE_VALUES)
        box, rest = divmod(rest, HOLE_VALUES)
        row, rest = divmod(rest, HOLE * CHANNELS)
        column, channel = divmod(rest, CHANNELS)
        top, left = self.corners[image, box]
        name = self.names[image].decode()
        return f"{name}_box{box + 1}_{top + row}_{left + column}_{channel}"


def find_masked_info(data: Path) -> Path:
    """The test set's ``masked_info.csv`` under ``data``, at whatever depth.

    Raises:
        UserError: there is none, or more than one that could be meant.
    """
    direct = data / MASKED_INFO
    found = [direct] if direct.is_file() else sorted(data.rglob(f"Testing_Data/{MASKED_INFO}"))
    if len(found) == 1:
        return found[0]
    if not found:
        missing = f"{data} holds no Testing_Data/{MASKED_INFO}."
        raise UserError(
            missing if data.is_dir() else f"There is no folder {data}.",
            "Run `tools fetch-data`, or name the competition's data with --data DIR.",
        )
    listed = ", ".join(str(path) for path in found)
    raise UserError(f"{data} holds several test sets: {listed}.", "Name one with --data DIR.")


def read_holes(path: Path) -> Holes:
    """Read ``masked_info.csv``: an index, a file name, and four integers, by position.

    Raises:
        UserError: a row is not that, a name cannot stand in an identifier, or a hole leaves the
            image; the message names the file and the line.
    """
    names: dict[bytes, int] = {}
    corners: list[list[int]] = []
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} is over {_LARGEST >> 10} KiB.", "Is it the right one?")
        with path.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text)
            next(reader, None)
            for row in reader:
                if not row:
                    continue
                where = f"{path}, line {reader.line_num}"
                name, numbers = _info_row(row, where)
                if name in names:
                    raise UserError(f"{where}: {row[1]!r} is there twice.", "Fetch it again.")
                names[name] = len(names)
                corners.append(numbers)
    except OSError as failure:
        raise UserError(f"{path} cannot be read: {failure.strerror}.") from failure
    except (UnicodeDecodeError, csv.Error) as failure:
        raise UserError(f"{path} is no CSV file in UTF-8: {failure}.", "Fetch it again.") from None
    if not names:
        raise UserError(f"{path} names no image.", "Fetch it again with `tools fetch-data`.")
    return Holes(path, tuple(names), np.array(corners, np.int64).reshape(-1, 2, 2))


def _info_row(row: list[str], where: str) -> tuple[bytes, list[int]]:
    """The file name and the four numbers of one row."""
    if len(row) != 6:
        raise UserError(
            f"{where}: {len(row)} columns instead of 6.",
            "Expected are an index, the file name and the two holes' rows and columns.",
        )
    name = row[1]
    if not name or len(name) > 200 or _UNSAFE_NAME.search(name):
        raise UserError(
            f"{where}: {name[:200]!r} cannot be an image's name.",
            "A name has no path, comma, quote or control character.",
        )
    numbers = []
    for text in row[2:]:
        if not (text.isascii() and text.isdecimal() and len(text) < 4):
            raise UserError(f"{where}: {text[:40]!r} is no row or column.", "Fetch it again.")
        numbers.append(int(text))
    if max(numbers) > SIDE - HOLE:
        raise UserError(
            f"{where}: a {HOLE}-pixel hole at {max(numbers)} leaves the {SIDE}-pixel image.",
            "Fetch the file again with `tools fetch-data`.",
        )
    return name.encode(), numbers
