"""What a person sees: data on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

NARROWEST = 10  # of a column of words, before other columns are broken too

stdout = Console(soft_wrap=True, highlight=False, emoji=False)
stderr = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
if not stdout.is_terminal:
    stdout.width = 1000  # only a terminal has an edge


def note(message: str) -> None:
    """Tell something in passing, on stderr."""
    stderr.print(message, markup=False)


def plain(text: object, limit: int = 300) -> str:
    """Words from outside as one line without what moves a terminal's cursor; "" for None."""
    words = "".join(c if c.isprintable() else " " for c in str(text or ""))
    line = " ".join(words.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def moment(stamp: str) -> str:
    """An ISO 8601 time as this machine's clock has it, to the minute; "" for what is none."""
    try:
        return f"{datetime.fromisoformat(stamp).astimezone():%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError):
        return ""


@contextlib.contextmanager
def way_back(words: str) -> Iterator[None]:
    """Say on Ctrl-C what goes on, and how to come back to it."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"\n{words}")
        raise


def error(message: str) -> None:
    """Print the one line of a failure, on stderr."""
    stderr.print("[bold red]error:[/] ", end="")
    stderr.print(message, markup=False)


def print_json(data: Any) -> None:
    """Print ``data`` as one JSON document on stdout."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def print_json_line(data: Any) -> None:
    """Print ``data`` as one line of JSON on stdout, at once."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str = "",
    words: Sequence[str] = (),
) -> None:
    """Print a table on stdout; columns but the first and those of ``words`` are aligned right.

    Where the terminal is narrow, columns of words are broken into lines before any other.
    """
    cells = [list(map(Text, row)) for row in rows]  # names from outside are no markup

    def table(whole: bool) -> Table:
        made = Table()
        for index, header in enumerate(headers):
            left, wordy = index == 0 or header in words, header in words
            made.add_column(
                header,
                justify="left" if left else "right",
                overflow="fold",
                min_width=NARROWEST if whole and wordy else None,
                no_wrap=whole and not wordy,
            )
        for row in cells:
            made.add_row(*row)
        return made

    if title:
        stdout.print(Text(title, style="bold"))
    wide = stdout.options.update(width=10_000)
    fits = Measurement.get(stdout, wide, table(bool(words))).minimum <= stdout.width
    stdout.print(table(bool(words) and fits), soft_wrap=False)


def figure(value: float | None, digits: int) -> str:
    """A number for a table; "" where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def with_error(text: str, error: float | None) -> str:
    """Append an error to a number, where there is one."""
    return text if error is None else f"{text} ± {error:.4f}"


def progress_bar() -> Progress:
    """A bar for counted steps on stderr; silent where stderr is no terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        console=stderr,
        disable=not stderr.is_terminal,
    )


def transfer_bar() -> Progress:
    """A bar for bytes with rate and time left, on stderr; silent where stderr is no terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=stderr,
        disable=not stderr.is_terminal,
    )
