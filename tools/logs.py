"""A kernel's log: Kaggle's format decoded, what the kernel tells of its progress, and following.

Kaggle stores a log as a JSON array of ``{"stream_name", "time", "data"}``, one object a line with
the comma in front; it has also been seen as JSON lines, cut off, empty, and as plain text.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tools import transfer
from tools.console import plain
from tools.errors import NetworkError
from tools.files import parse_json
from tools.kaggle_client import NoAccessError, NotFoundError
from tools.kaggle_kernels import Kernels

END = "END_OF_LOG"
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
            return [event for one in found if (event := _event(one))]
    events = []
    for line in stored.splitlines():
        bare = line.strip().removeprefix("[").removeprefix(",").strip()
        if not bare or bare == "]":
            continue
        event = None
        for form in (bare, bare.removesuffix("]"), bare.removesuffix(",")):
            with contextlib.suppress(ValueError):
                event = event or _event(parse_json(form))
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


def follow(
    kernels: Kernels,
    kernel: str,
    version: int,
    ended: Callable[[], bool],
    poll: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Event]:
    """The events of a version as they come, each once, until ``ended`` says that it has.

    The service cuts a quiet stream every few minutes and then tells everything again.
    """
    seen, tries = 0, 0
    while True:
        before = seen
        try:
            for number, event in enumerate(_stream(kernels, kernel, version)):
                if event is None:
                    return
                if number >= seen:
                    seen += 1
                    yield event
        except (NotFoundError, NoAccessError, NetworkError, *transfer.BROKEN):
            pass  # not there yet, or broken off: its state decides
        if ended():
            yield from parse(kernels.log(kernel, version))[seen:]
            return
        tries = 0 if seen > before else tries + 1
        sleep(min(60.0, poll * 1.5**tries))


def so_far(kernels: Kernels, kernel: str, version: int, quiet: float) -> list[Event]:
    """What a running version has written: what comes until the stream is quiet for a while."""
    events: list[Event] = []
    until = time.monotonic() + 10 * quiet
    with contextlib.suppress(NotFoundError, NoAccessError, NetworkError, *transfer.BROKEN):
        for event in _stream(kernels, kernel, version, quiet):
            if event is None or time.monotonic() > until:
                break
            events.append(event)
    return events


def _stream(
    kernels: Kernels, kernel: str, version: int, quiet: float | None = None
) -> Iterator[Event | None]:
    """Events from one connection; None where the service says that this is the end."""
    with kernels.log_stream(kernel, version, quiet) as response:
        kind = response.headers.get("Content-Type", "")
        if kind.startswith("text/html"):
            raise NetworkError("Kaggle's log is a web page; a proxy or a sign-in may be between.")
        if not kind.startswith("text/event-stream"):
            yield from parse(response.content.decode("utf-8", "replace"))
            yield None
            return
        for raw in response.iter_lines():
            line = raw.decode("utf-8", "replace")
            if not line.startswith("data:"):
                continue
            data = line.removeprefix("data:").strip()
            if data == END:
                yield None
                return
            try:
                event = _event(parse_json(data))
            except ValueError:
                event = None
            yield event or Event("stdout", 0.0, data + "\n")


def _event(found: Any) -> Event | None:
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
        return _event({"data": parse_json(f'"{match[1]}"') + "\n"})
    return None


def _whole(text: str) -> str:
    """Text with a question mark for each half of a character, which cannot be printed."""
    return text.encode("utf-8", "replace").decode()


def _visible(line: str) -> str:
    line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)
    return "".join(c for c in line if c == "\t" or c.isprintable())
