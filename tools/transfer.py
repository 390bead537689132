"""Bytes over HTTP: bounded retries, downloads that go on where they broke off, resumable uploads.

Addresses come from a service and are secrets while they last (they are signed): they are checked,
and never shown. Neither cookies nor credentials go along.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import requests

from tools.errors import NetworkError, UserError, VerificationError
from tools.patience import BROKEN, PASSING, Patience, TimedAdapter, reason, retry_after
from tools.settings import Settings, on_this_machine

CHUNK = 1 << 16  # what of it had not come when a connection breaks off is fetched again
EXPIRED = frozenset({400, 401, 403, 404, 410})
_RANGE = re.compile(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)")

Advance = Callable[[int], None]


def storage_session(settings: Settings) -> requests.Session:
    """A session for signed addresses: timeouts, no credentials, bytes as they are."""
    session = requests.Session()
    session.mount("https://", TimedAdapter(settings.timeout))
    session.mount("http://", TimedAdapter(settings.timeout))
    session.auth = lambda request: request  # keeps ~/.netrc out of it
    session.headers["Accept-Encoding"] = "identity"
    return session


def check_address(url: str, settings: Settings) -> str:
    """``url``, if it is one that bytes may go to or come from.

    Raises:
        VerificationError: it is neither HTTPS nor, in a test, on this machine.
    """
    try:
        secure = urlsplit(url).scheme == "https" and urlsplit(url).hostname
    except ValueError:
        secure = False
    if not secure and not (settings.kaggle_endpoint and on_this_machine(url)):
        raise _unsafe()
    return url


def _unsafe() -> VerificationError:
    return VerificationError("Kaggle gave a storage address that is not HTTPS; it is not used.")


class Source:
    """An object behind signed addresses, opened again for as long as that may help.

    Args:
        session: of :func:`storage_session`.
        address: gives a fresh signed address.
        settings: timeouts and patience.
        label: the name for messages.
        patience: how long to go on trying without a byte; that of the settings if None.
    """

    def __init__(
        self,
        session: requests.Session,
        address: Callable[[], str],
        settings: Settings,
        label: str,
        patience: Patience | None = None,
    ) -> None:
        self._session, self._address, self._settings = session, address, settings
        self._label = label
        self._patience = (patience or Patience(settings.retry_seconds)).fresh()
        self._url, self._expired = "", 0

    def renew(self) -> None:
        """Have the whole patience again, because something arrived."""
        self._patience.renew()
        self._expired = 0

    def pause(self, problem: str = "the connection broke off", wait: float | None = None) -> None:
        """Wait before the next try.

        Raises:
            NetworkError: the patience is used up.
        """
        if not self._patience.pause(f"{self._label}: {problem}", wait):
            raise NetworkError(
                f"{self._label} did not arrive: {problem}.",
                "What did is kept; the same command goes on from there.",
            )

    def open(self, start: int | None = None) -> requests.Response:
        """The bytes from ``start`` on, all where it is None: an answer with 200, 206 or 416.

        Raises:
            NetworkError: there is none within the patience.
            VerificationError: they would come from an unsafe address.
        """
        headers = {"Range": f"bytes={start}-"} if start is not None else {}
        while True:
            wait = None
            try:
                self._url = self._url or check_address(self._address(), self._settings)
                response = self._session.get(self._url, headers=headers, stream=True)
                for hop in (*response.history, response):
                    check_address(hop.url, self._settings)
                code = response.status_code
                if code in (200, 206) or (code == 416 and start is not None):
                    return response
                response.close()
                problem, wait = f"the storage answered {code}", retry_after(response)
                if code in EXPIRED and self._expired < 3:
                    self._url, wait, self._expired = "", 0.0, self._expired + 1
                elif code not in PASSING:
                    raise NetworkError(f"{self._label} did not arrive: {problem}.")
            except BROKEN as failure:
                problem = reason(failure)
            except ValueError:  # a redirect to what is no address
                raise _unsafe() from None
            self.pause(problem, wait)


def download(
    address: Callable[[], str],
    target: Path,
    settings: Settings,
    *,
    label: str = "",
    check: Callable[[Path], object] = lambda part: None,
    advance: Advance = lambda count: None,
    patience: Patience | None = None,
) -> Path:
    """Stream a file to ``target``; what arrived stays beside it until the file is whole.

    A connection that breaks off, or an earlier call that did, is continued by a byte range, if the
    object is still the same one. An address that has expired is asked for anew.

    Args:
        address: gives a fresh signed address.
        target: appears when the last byte has been written, never before.
        settings: timeouts and patience.
        label: the name for messages; the target's name if empty.
        check: looks at the bytes before they get the name ``target``, and raises if they are wrong.
        advance: is told the bytes that arrive, and a negative number if they are dropped.
        patience: how long to go on trying without a byte.

    Returns:
        ``target``.

    Raises:
        NetworkError: it did not arrive within the patience.
        VerificationError: what ``check`` raises; nothing is kept.
        UserError: the disk is full, or the folder cannot be written.
    """
    label = label or target.name
    with storage_session(settings) as session:
        source = Source(session, address, settings, label, patience)
        part, furthest = None, 0
        while part is None:
            try:
                part, reached = _receive(source, target, advance)
            except OSError as failure:
                raise UserError(f"{target} cannot be written: {failure.strerror}.") from failure
            if reached > furthest:
                furthest = reached
                source.renew()
            if part is None:
                source.pause()
    try:
        check(part)
    except VerificationError:
        advance(-part.stat().st_size)
        part.unlink()
        raise
    os.replace(part, target)
    return target


def _receive(source: Source, target: Path, advance: Advance) -> tuple[Path | None, int]:
    """One request. Returns the part file if it is whole now, and how many bytes are there."""
    found = list(target.parent.glob(f".{glob.escape(target.name)}.{'?' * 12}.part"))
    part = found[0] if len(found) == 1 else None
    start = part.stat().st_size if part is not None else 0
    with source.open(start or None) as response:
        if response.status_code == 416 and part is not None:
            part.unlink()
            return None, 0
        target.parent.mkdir(parents=True, exist_ok=True)
        start, total = span(response) if response.status_code == 206 else (0, _length(response))
        kept = target.with_name(f".{target.name}.{identity(response, total)}.part")
        if response.status_code == 206 and (kept != part or kept.stat().st_size != start):
            if part is not None:
                part.unlink()  # of another object: begin anew
            return None, 0
        for stale in found:
            if stale != kept:
                stale.unlink()
        if total is not None and shutil.disk_usage(target.parent).free < total - start:
            raise OSError(28, f"no space for {total - start} more bytes")
        arrived = 0
        advance(start)
        with kept.open("ab" if start else "wb") as file:
            try:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    arrived += len(chunk)
                    advance(len(chunk))
            except BROKEN:
                advance(-start - arrived)
                return None, start + arrived
        if total is not None and start + arrived < total:
            advance(-start - arrived)
            return None, start + arrived
        return kept, start + arrived


def _length(response: requests.Response) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdecimal() and "Content-Encoding" not in response.headers else None


def span(response: requests.Response) -> tuple[int, int | None]:
    """Where the bytes of a partial answer begin, -1 if it is none, and the size of the whole."""
    told = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code != 206 or told is None:
        return -1, None
    return int(told[1]), int(told[2]) if told[2] != "*" else None


def identity(response: requests.Response, total: int | None) -> str:
    """What tells two objects of one name apart, short enough for a file name."""
    marks = [response.headers.get(name, "") for name in ("ETag", "Last-Modified")]
    return hashlib.sha256(f"{marks} {total}".encode()).hexdigest()[:12]


def upload(
    url: str,
    source: Path,
    settings: Settings,
    *,
    advance: Advance = lambda count: None,
    patience: Patience | None = None,
) -> None:
    """Send a file to a signed address, going on where the connection broke off.

    Raises:
        NetworkError: the storage did not take it; the message has its status, never the address.
    """
    check_address(url, settings)
    patience = (patience or Patience(settings.retry_seconds)).fresh()
    size, done, told = source.stat().st_size, 0, 0

    def count(sent: int) -> None:
        nonlocal told
        told += sent
        advance(sent)

    with storage_session(settings) as session:
        while True:
            wait = None
            try:
                headers = {"Content-Range": f"bytes {done}-{size - 1}/{size}"} if done else {}
                response = session.put(
                    url, data=_Body(source, done, count), headers=headers, allow_redirects=False
                )
                code, wait = response.status_code, retry_after(response)
                problem = f"the storage answered {code}"
                if code in (200, 201):
                    return
                if code not in (308, *PASSING):  # 308: it kept a part of what was sent
                    raise NetworkError(f"{source.name} was not uploaded: {problem}.")
            except BROKEN as failure:
                problem = reason(failure)
            if not patience.pause(f"{source.name}: {problem}", wait):
                raise NetworkError(
                    f"{source.name} was not uploaded: {problem}.", "Try again later."
                )
            before, done = done, 0
            with contextlib.suppress(*BROKEN):
                ask = session.put(
                    url, headers={"Content-Range": f"bytes */{size}"}, allow_redirects=False
                )
                if ask.status_code in (200, 201):
                    return
                kept = re.fullmatch(r"bytes=0-(\d+)", ask.headers.get("Range", ""))
                done = int(kept[1]) + 1 if ask.status_code == 308 and kept else 0
            if done > before:
                patience.renew()
            count(done - told)  # what was sent in vain does not count


class _Body:
    """A file from an offset on, as a request's body with a length."""

    def __init__(self, source: Path, start: int, advance: Advance) -> None:
        self._source, self._start, self._advance = source, start, advance
        self.len = source.stat().st_size - start

    def __iter__(self) -> Iterator[bytes]:
        with self._source.open("rb") as file:
            file.seek(self._start)
            while chunk := file.read(CHUNK):
                yield chunk
                self._advance(len(chunk))
