"""What a submission's file must hold, and whether it does.

A submission names every value of every hole of the test set: the expected identifiers follow from
``masked_info.csv`` alone. The file is read in blocks of bytes and checked with array operations,
so 6.75 million rows take seconds and little memory, in whatever order they stand.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tools.errors import UserError, VerificationError
from tools.holes import CHANNELS, HOLE, Holes

HEADER = b"filename_box_pixel,value"

_BLOCK = 8 << 20
_LONGEST_LINE = 64 << 10
_LONGEST_NUMBER = 40
_NUMERIC = np.isin(np.arange(256), list(b"0123456789+-.eE"))  # by byte; neither nan nor 1_0
_REWRITE = "Submit the submission.csv.gz that the kernel writes into its run folder."


@dataclass(frozen=True)
class CheckedFile:
    """A submission's file that passed: ``sha256`` and ``size`` are of the bytes on disk."""

    path: Path
    rows: int
    size: int
    sha256: str


def require(path: Path) -> None:
    """Refuse what is no file that Kaggle would take as a submission."""
    if not path.is_file():
        raise UserError(f"There is no file {path}.", "Name the submission's CSV file.")
    if not path.name.endswith((".csv", ".csv.gz")):
        raise UserError(f"{path} is neither .csv nor .csv.gz.", "Kaggle goes by the name.")


def check(path: Path, holes: Holes) -> CheckedFile:
    """Check a submission: its columns, every identifier exactly once, every value in [0, 1].

    Raises:
        UserError: the first row that is wrong, by file and line, or what is missing.
        VerificationError: the compressed file is cut off or damaged.
    """
    return _read(path, _Checker(path, holes))


def values(path: Path, holes: Holes) -> np.ndarray:
    """Check a submission as :func:`check`, and return its values, in [0, 1].

    Returns:
        (images, 2, 75, 75, 3), in the order of ``holes``, whatever the file's is.
    """
    checker = _Checker(path, holes)
    checker.values = np.zeros(holes.rows)
    _read(path, checker)
    return checker.values.reshape(-1, 2, HOLE, HOLE, CHANNELS)


def _read(path: Path, checker: _Checker) -> CheckedFile:
    require(path)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as raw:
            hashed: Any = _Hashed(raw, digest)
            source = gzip.GzipFile(fileobj=hashed) if path.suffix == ".gz" else hashed
            try:
                for lines in _blocks(source, path):
                    checker.feed(lines)
            except UserError:
                while path.suffix == ".gz" and source.read(_BLOCK):
                    pass  # where the file is damaged, which its end tells, that is what is wrong
                raise
            size = raw.tell()
    except (EOFError, gzip.BadGzipFile, zlib.error) as failure:
        raise VerificationError(
            f"{path} is cut off or damaged: {failure}.", "Fetch or write it again."
        ) from failure
    except OSError as failure:
        raise UserError(f"{path} cannot be read: {failure.strerror}.") from failure
    checker.finish()
    return CheckedFile(path, checker.holes.rows, size, digest.hexdigest())


class _Hashed(io.RawIOBase):
    """A file whose bytes are hashed as they are read."""

    def __init__(self, raw: BinaryIO, digest) -> None:
        self.raw, self.digest = raw, digest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self.raw.read(size)
        self.digest.update(data)
        return data


def _blocks(source: Any, path: Path) -> Iterator[np.ndarray]:
    """The file as arrays of bytes that end with a whole line, the header taken off and checked."""
    rest = b""
    header = False
    while data := source.read(_BLOCK):
        data = rest + data
        if not header:
            first, newline, data = data.partition(b"\n")
            if first.startswith(b"\x1f\x8b"):
                again = path.suffix == ".gz"
                raise UserError(
                    f"{path} is compressed{' twice' if again else ''}.",
                    "Compress it once." if again else f"Name it {path.name}.gz.",
                )
            if first.startswith(b"\xef\xbb\xbf"):
                raise UserError(f"{path} begins with a byte order mark.", "Save it without.")
            if first.rstrip(b"\r") != HEADER:
                raise UserError(
                    f"{path}, line 1: the columns are {_shown(first)}, not {HEADER.decode()!r}.",
                    _REWRITE,
                )
            header = True
        cut = data.rfind(b"\n") + 1
        if len(data) - cut > _LONGEST_LINE:
            raise UserError(f"{path} has a line of over {_LONGEST_LINE >> 10} KiB.", _REWRITE)
        if cut:
            yield np.frombuffer(data, np.uint8, cut)
        rest = data[cut:]
    if not header:
        raise UserError(f"{path} is empty.", _REWRITE)
    if rest:
        yield np.frombuffer(rest + b"\n", np.uint8)


class _Checker:
    """Takes the rows in blocks; remembers at which line each identifier stood.

    ``values``, where there is such an array, gets each row's value at its canonical place.
    """

    def __init__(self, path: Path, holes: Holes) -> None:
        self.path = path
        self.holes = holes
        self.images = {name: index for index, name in enumerate(holes.names)}
        self.line_of = np.zeros(holes.rows, np.int32)
        self.values: np.ndarray | None = None
        self.next_line = 2

    def feed(self, text: np.ndarray) -> None:
        """Check whole lines; ``text`` is their bytes."""
        stops = np.flatnonzero(text == ord("\n"))
        starts = np.concatenate(([0], stops[:-1] + 1))
        ends = stops - (text[stops - 1] == ord("\r"))
        commas = _last_before(text, ord(","), ends, 1)[0]
        index = self._indices(text, starts, commas)
        good = index >= 0
        good &= commas >= starts
        good &= _in_unit_range(text, commas + 1, ends)
        if not good.all():
            self._explain(text, starts, ends, int(np.argmin(good)))
        lines = np.arange(self.next_line, self.next_line + len(index), dtype=np.int32)
        repeated = self.line_of[index] > 0
        if not repeated.any():
            self.line_of[index] = lines
            repeated = self.line_of[index] != lines
        if repeated.any():
            self._report_repeated(index, lines, int(np.argmax(repeated)))
        if self.values is not None:
            self.values[index] = _numbers(text, commas + 1, ends)
        self.next_line += len(index)

    def finish(self) -> None:
        """Check that nothing is missing."""
        missing = np.flatnonzero(self.line_of == 0)
        if len(missing):
            first = self.holes.identifier(int(missing[0]))
            raise UserError(
                f"{self.path} ends at line {self.next_line - 1}: {len(missing):,} of "
                f"{self.holes.rows:,} rows are missing, first {first!r}.",
                _REWRITE,
            )

    def _indices(self, text: np.ndarray, starts: np.ndarray, commas: np.ndarray) -> np.ndarray:
        """Each row's place in the canonical order; -1 where the identifier is none."""
        name_end, box_end, row_end, column_end = _last_before(text, ord("_"), commas, 4)[::-1]
        good = name_end >= starts
        image = np.full(len(starts), -1)
        image[good] = self._images(text, starts[good], name_end[good])
        good &= box_end - name_end == len("_box1")
        for offset, letter in enumerate(b"box", start=1):
            good &= text[np.where(good, name_end + offset, 0)] == letter
        box = text[np.where(good, box_end - 1, 0)].astype(np.int64) - ord("1")
        good &= (image >= 0) & (box >= 0) & (box < 2)
        corners = self.holes.corners[np.where(good, image, 0), np.where(good, box, 0)]
        row = _integer(text, box_end + 1, row_end) - corners[:, 0]
        column = _integer(text, row_end + 1, column_end) - corners[:, 1]
        channel = _integer(text, column_end + 1, commas)
        for value, bound in ((row, HOLE), (column, HOLE), (channel, CHANNELS)):
            good &= (value >= 0) & (value < bound)
        index = (((image * 2 + box) * HOLE + row) * HOLE + column) * CHANNELS + channel
        return np.where(good, index, -1)

    def _images(self, text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Each row's image by its name; -1 for an unknown one. Looks up each run of rows once."""
        image = np.full(len(starts), -1)
        lengths = ends - starts
        for length in sorted({len(name) for name in self.images}):
            (rows,) = np.nonzero(lengths == length)
            if not len(rows):
                continue
            names = _gather(text, starts[rows], length)
            heads = np.flatnonzero(np.r_[True, (names[1:] != names[:-1]).any(axis=1)])
            known = [self.images.get(names[head].tobytes(), -1) for head in heads]
            image[rows] = np.repeat(known, np.diff(np.r_[heads, len(rows)]))
        return image

    def _explain(self, text: np.ndarray, starts: np.ndarray, ends: np.ndarray, bad: int) -> None:
        """Say what is wrong with one row."""
        line = text[starts[bad] : ends[bad]].tobytes()
        where = f"{self.path}, line {self.next_line + bad}"
        identifier, comma, value = line.rpartition(b",")
        if not comma:
            raise UserError(f"{where}: {_shown(line)} has no two columns.", _REWRITE)
        single = np.frombuffer(line, np.uint8)
        ends_at = np.array([len(identifier)])
        if self._indices(single, np.array([0]), ends_at)[0] < 0:
            raise UserError(
                f"{where}: {_shown(identifier)} is no pixel of a hole in {self.holes.source}.",
                "Write the submission for this test set, or name the right one with --data DIR.",
            )
        remedy = "Every value of a hole needs one."
        with contextlib.suppress(ValueError):
            if math.isfinite(float(value)):
                remedy = "Divide values of 0 to 255 by 255, and clip what lies outside."
        raise UserError(f"{where}: {_shown(value)} is not a number in [0, 1].", remedy)

    def _report_repeated(self, index: np.ndarray, lines: np.ndarray, bad: int) -> None:
        """Say which row appears twice, and where."""
        first = self.line_of[index[bad]]
        both = sorted({int(first), int(lines[bad])})
        raise UserError(
            f"{self.path}, line {both[-1]}: {self.holes.identifier(int(index[bad]))!r} stands at "
            f"line {both[0]} already.",
            _REWRITE,
        )


def _last_before(text: np.ndarray, byte: int, ends: np.ndarray, count: int) -> list[np.ndarray]:
    """The last ``count`` positions of ``byte`` before each end, nearest first; -1 for none."""
    places = np.concatenate((np.full(count, -1), np.flatnonzero(text == byte)))
    nearest = np.searchsorted(places, ends) - 1
    return [places[np.maximum(nearest - back, 0)] for back in range(count)]


def _gather(text: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """The (rows, length) bytes that begin at each start."""
    return text[starts[:, None] + np.arange(length)]


def _integer(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The decimal numbers of one to three digits in each span; a large negative one for others."""
    width = ends - starts
    good = (width >= 1) & (width <= 3)
    value = np.zeros(len(starts), np.int64)
    for place in range(3):
        used = width > place
        digit = text[np.where(used, ends - 1 - place, 0)].astype(np.int64) - ord("0")
        good &= ~used | ((digit >= 0) & (digit <= 9))
        value += np.where(used, digit * 10**place, 0)
    smallest = np.array([0, 0, 10, 100])[np.clip(width, 0, 3)]
    good &= value >= smallest  # a leading zero would make another identifier
    return np.where(good, value, -(1 << 20))


def _in_unit_range(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Whether each span is a decimal number in [0, 1]."""
    good = np.zeros(len(starts), bool)
    lengths = ends - starts
    for length in range(1, _LONGEST_NUMBER + 1):
        (rows,) = np.nonzero(lengths == length)
        if len(rows):
            written = _gather(text, starts[rows], length)
            good[rows] = _plain(written)
            others = _NUMERIC[written].all(axis=1) & ~good[rows]
            values = _floats(written[others].view(f"S{length}")[:, 0])
            good[rows[others]] = (values >= 0) & (values <= 1)
    return good


def _numbers(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The decimal number in each span, all of which are right."""
    numbers = np.zeros(len(starts))
    lengths = ends - starts
    for length in np.unique(lengths).tolist():
        (rows,) = np.nonzero(lengths == length)
        numbers[rows] = _floats(_gather(text, starts[rows], length).view(f"S{length}")[:, 0])
    return numbers


def _plain(written: np.ndarray) -> np.ndarray:
    """Whether each row of bytes is like 0.411765, which needs no conversion: most are."""
    digits = written - np.uint8(ord("0"))
    return (digits[:, 0] == 0) & (written[:, 1:2] == ord(".")).all(1) & (digits[:, 2:] <= 9).all(1)


def _floats(written: np.ndarray) -> np.ndarray:
    """Numbers from their decimal digits; NaN for what is none."""
    try:
        return written.astype(float)
    except ValueError:
        return np.array([_float(text) for text in written.tolist()])


def _float(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _shown(text: bytes) -> str:
    """Bytes from a file as they may be printed."""
    return repr(text[:80].decode("utf-8", "replace"))
