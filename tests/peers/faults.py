"""What a server can be told to do wrong, one call at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """A fault: this answer instead of the true one. A dict is sent as JSON."""

    status: int
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Cut:
    """A fault: the true answer, or the upload, breaks off after so many bytes (log: events)."""

    after: int


@dataclass
class Keep:
    """A fault: the storage keeps so many bytes of what an upload sends, and says so."""

    bytes: int


class Drop:
    """A fault: the connection closes without an answer."""


@dataclass
class Lost:
    """A fault: the request is carried out, but this, or no answer at all, comes of it."""

    answer: Reply | Hang | None = None


@dataclass
class Hang:
    """A fault: no answer, or no more after so many events of a log, until the server ends."""

    after: int | None = None


@dataclass
class Hold:
    """A fault: the request is carried out once a test lets it go."""

    let_go: threading.Event = field(default_factory=threading.Event)


class Refusal(Exception):
    """An error in Kaggle's own words."""

    def __init__(self, status: int, message: str) -> None:
        self.reply = Reply(status, {"error": {"code": status, "message": message}})


@dataclass
class Call:
    """One request as it arrived."""

    name: str
    body: dict
    headers: dict[str, str]
