"""A version's log while it runs: followed to its end, or what there is so far."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from tools import logs
from tools.errors import NetworkError
from tools.files import parse_json
from tools.kaggle_client import NoAccessError, NotFoundError
from tools.kaggle_kernels import Kernels
from tools.logs import Event
from tools.patience import BROKEN

END = "END_OF_LOG"
LIVE = "text/event-stream"


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
    seen, pause = 0, poll
    while True:
        before = seen
        try:
            with kernels.log_stream(kernel, version) as response:
                for number, event in enumerate(_live(response)):
                    if event is None:
                        return
                    if number >= seen:
                        seen += 1
                        yield event
        except (NotFoundError, NoAccessError, NetworkError, *BROKEN):
            pass  # not there yet, or broken off: its state decides
        if ended():
            yield from logs.parse(kernels.log(kernel, version))[seen:]
            return
        pause = poll if seen > before else min(60.0, 1.5 * pause)
        sleep(pause)


def so_far(kernels: Kernels, kernel: str, version: int, quiet: float) -> list[Event]:
    """What a running version has written: what comes until the stream is quiet for a while.

    One that is never quiet is left after three times as long.
    """
    events: list[Event] = []
    with (
        contextlib.suppress(NotFoundError, NoAccessError, NetworkError, *BROKEN),
        kernels.log_stream(kernel, version, quiet) as response,
    ):
        if _kind(response) not in (LIVE, "text/html"):  # it has just ended: the stored log
            return logs.parse(response.content.decode("utf-8", "replace"))
        until = time.monotonic() + 3 * quiet
        for event in _live(response):
            if event is None or time.monotonic() > until:
                break
            events.append(event)
    return events


def _kind(response: Any) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _live(response: Any) -> Iterator[Event | None]:
    """Events as they come; None where the service says that this is the end.

    There are none in another answer than a stream: the service gives one for what has ended, and
    may for what has not begun.
    """
    if _kind(response) != LIVE:
        return
    data = ""
    for raw in response.iter_lines():
        if data:  # the line before is whole: where a stream is cut off, the last one may not be
            yield _event(data)
        line = raw.decode("utf-8", "replace")
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data == END:
            yield None
            return


def _event(data: str) -> Event:
    with contextlib.suppress(ValueError):
        if event := logs.read_event(parse_json(data)):
            return event
    return Event("stdout", 0.0, data + "\n")
