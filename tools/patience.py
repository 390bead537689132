"""How long a request may take, what is worth another try, and the pauses in between."""

from __future__ import annotations

import contextlib
import email.utils
import random
import time
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError as Urllib3Error

from tools import console

FIRST_PAUSE = 0.5  # seconds; each further one is twice as long, up to a minute
PASSING = frozenset({408, 429, 500, 502, 503, 504})
BROKEN = (requests.RequestException, Urllib3Error)


class Patience:
    """Pauses between tries, within a total number of seconds.

    A pause grows from half a second to a minute, with jitter of ±50 %; the service's own
    Retry-After takes its place, unless it is longer than what is left.
    """

    def __init__(
        self,
        seconds: float,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds, self._sleep, self._clock = seconds, sleep, clock
        self.renew()

    def renew(self) -> None:
        """Begin anew, because something arrived."""
        self._tries, self._until = 0, self._clock() + self._seconds

    def fresh(self) -> Patience:
        """Another one with the same limits, for another request."""
        return Patience(self._seconds, self._sleep, self._clock)

    def pause(self, why: str, retry_after: float | None = None) -> bool:
        """Wait before the next try, and say so; False, at once, if it would take too long."""
        delay = min(60.0, FIRST_PAUSE * 2.0**self._tries) * random.uniform(0.5, 1.5)
        delay = delay if retry_after is None else retry_after
        self._tries += 1
        if self._tries > 100 or self._clock() + delay > self._until:
            return False
        if delay >= 1:
            console.note(f"{why}; trying again in {delay:.0f} s")
        self._sleep(delay)
        return True


def retry_after(response: requests.Response | None) -> float | None:
    """Seconds that a response asks to wait, from a number or a date (RFC 9110, 10.2.3).

    A date that has passed tells nothing: this machine's clock is ahead.
    """
    value = response.headers.get("Retry-After") if response is not None else None
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value)) if value.strip().lower() != "nan" else None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        left = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        return left if left > 0 else None
    return None


class TimedAdapter(HTTPAdapter):
    """An adapter for clients that set no timeout of their own."""

    def __init__(self, timeout: float) -> None:
        self.limits = (min(timeout, 20.0), timeout)
        super().__init__()

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send with a timeout: to connect, and between two bytes."""
        kwargs["timeout"] = kwargs.get("timeout") or self.limits
        return super().send(*args, **kwargs)


def is_distrust(failure: Exception) -> bool:
    """Whether the server's certificate was not accepted, which no further try mends."""
    return "CERTIFICATE_VERIFY_FAILED" in repr(failure)


def reason(failure: Exception) -> str:
    """What broke, in words without addresses (they may be signed)."""
    if isinstance(failure, requests.Timeout):
        return "no answer in time"
    if isinstance(failure, requests.exceptions.ProxyError):
        return "the proxy did not answer"
    if is_distrust(failure):
        return "the server's certificate was not accepted"
    if "NameResolution" in repr(failure) or "getaddrinfo" in repr(failure):
        return "the host's name was not found"
    if "refused" in str(failure):
        return "the connection was refused"
    return "the connection broke off"
