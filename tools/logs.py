"""A kernel's log: Kaggle's format decoded, and what the kernel tells of its progress.

Kaggle stores a log as a JSON array of ``{"stream_name", "time", "data"}``, one object a line with
the comma in front; it has also been seen as JSON lines, cut off, empty, and as plain text.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

from tools.console import plain
from tools.files import parse_json

_PROGRESS = re.compile(r"step (\d{1,12})/(\d{1,12}) \| (.{0,300})")


@dataclass(frozen=True)
class Event:
    """A piece of output: stream (stdout, stderr), seconds since the start, text as written."""

    stream: str
    time: float
    text: str


@dataclass(frozen=True)
class Progress:
    """How far training is, from one of the kernel's own lines."""

    step: int
    steps: int
    detail: str


def parse(stored: str) -> list[Event]:
    """The events of a stored log, whichever of the known forms it has."""
    stored = _whole(stored)
    with contextlib.suppress(ValueError):
        found = parse_json(stored)
        if isinstance(found, list):
            return [event for one in found if (event := read_event(one))]
    events = []
    for line in stored.split("\n"):  # splitlines() would also cut at U+2028, which JSON may hold
        bare = line.strip().removeprefix("[").removeprefix(",").strip()
        if not bare or bare == "]":
            continue
        event = None
        for form in (bare, bare.removesuffix("]"), bare.removesuffix(",")):
            with contextlib.suppress(ValueError):
                event = event or read_event(parse_json(form))
        if event is None and bare.startswith("{"):
            event = _cut_event(bare)
        events.append(event or Event("stdout", 0.0, line + "\n"))
    return events


def decode(events: list[Event]) -> str:
    """The log as text: bars in their last state, nothing that moves a terminal's cursor."""
    text = "".join(event.text for event in events).replace("\r\n", "\n")
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return "\n".join(map(_visible, lines))


def progress(text: str) -> Progress | None:
    """The last progress that ``text`` tells of."""
    found = None
    for match in _PROGRESS.finditer(text):
        found = Progress(int(match[1]), int(match[2]), _visible(match[3]).strip())
    return found


def last_words(text: str, lines: int = 12) -> str:
    """The end of a log, where the cause of a failure stands."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def read_event(found: Any) -> Event | None:
    """The event that an object of the log holds, if it holds one."""
    if not isinstance(found, dict) or not isinstance(found.get("data"), str):
        return None
    stream, seconds = found.get("stream_name"), found.get("time")
    return Event(
        plain(stream) if isinstance(stream, str) else "stdout",
        float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < 1e9 else 0.0,
        _whole(found["data"]),
    )


def _cut_event(line: str) -> Event | None:
    """What is left of an object whose end is missing."""
    match = re.search(r'"data"\s*:\s*"((?:[^"\\]|\\.)*)', line)
    if match is None:
        return None
    with contextlib.suppress(ValueError):
        return read_event({"data": parse_json(f'"{match[1]}"') + "\n"})
    return None


def _whole(text: str) -> str:
    """Text with a question mark for each half of a character, which cannot be printed."""
    return text.encode("utf-8", "replace").decode()


def _visible(line: str) -> str:
    line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)
    return "".join(c for c in line if c == "\t" or c.isprintable())
