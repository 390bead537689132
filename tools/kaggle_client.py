"""The one door to Kaggle: every request to its API leaves through here.

The public client signs in and knows the messages; what it lacks is added where it builds its
connection: timeouts, retries, a check of every answer. Versions are always asked for by their
label. ``kaggle`` is imported on first use, because its import signs in, prints and takes a second.
"""

from __future__ import annotations

import contextlib
import functools
import io
import operator
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tools import patience
from tools.console import plain
from tools.errors import NetworkError, RefusedError, SignInError, ToolsError, UserError
from tools.files import parse_json
from tools.settings import Settings

T = TypeVar("T")

SIGN_IN = (
    "Make a token at https://www.kaggle.com/settings and put it in ~/.kaggle/access_token, or the "
    "older kaggle.json in ~/.kaggle, or set KAGGLE_USERNAME and KAGGLE_KEY."
)
PAGE = 200  # the most that Kaggle gives at once
PAGES = 500  # more than any listing has; a server that never ends is stopped here
ODD = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What the public client raises over an answer that it cannot read."""


class NotFoundError(RefusedError):
    """Kaggle says that there is no such thing (404)."""


class NoAccessError(RefusedError):
    """Kaggle says that it may not be seen, or that it does not exist (403)."""


class UncertainError(NetworkError):
    """A request that must not be repeated was sent, and no answer tells what became of it."""


class Kaggle:
    """A signed-in connection.

    Raises:
        SignInError: there are no credentials, or they are not accepted.
        UserError: the ``kaggle`` package cannot be imported.
    """

    def __init__(self, settings: Settings, pauses: patience.Patience | None = None) -> None:
        self.settings = settings
        self._renewing = threading.Lock()
        self.patience = pauses or patience.Patience(settings.retry_seconds)
        self._api = _api_class()(settings)
        _check_token()
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                self.call("signing in", lambda client: self._api.authenticate())
        except SystemExit:
            from kagglesdk import get_access_token_from_env

            if get_access_token_from_env()[0]:
                raise SignInError("Kaggle did not accept the access token.", SIGN_IN) from None
            if os.path.isfile(file := self._api.config):
                raise SignInError(f"{file} holds no user name and key.", SIGN_IN) from None
            raise SignInError("There are no Kaggle credentials.", SIGN_IN) from None
        except RefusedError as failure:
            file = self._api.config
            if isinstance(failure.__cause__, ODD) and os.path.isfile(file):
                if not _holds_key(Path(file)):
                    raise SignInError(f"{file} holds no user name and key.", SIGN_IN) from None
            raise
        self.key_file = Path(self._api.config)
        self.user = str(self._api.config_values.get("username", ""))
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.user):
            raise SignInError("Kaggle's credentials hold no user name.", SIGN_IN)

    def ask(
        self,
        doing: str,
        method: str,
        kind: Any,
        *,
        repeatable: bool = True,
        once: bool = False,
        **fields: Any,
    ) -> Any:
        """What the client's ``method``, named with dots, answers to a request of a kind."""
        asked, find = request(kind, **fields), operator.attrgetter(method)
        return self.call(
            doing, lambda client: find(client)(asked), repeatable=repeatable, once=once
        )

    def pages(self, doing: str, method: str, kind: Any, **fields: Any) -> Iterator[Any]:
        """The pages of a listing, each asked for as by :meth:`ask`."""
        token, seen = "", {""}
        for _ in range(PAGES):
            answer = self.ask(doing, method, kind, page_size=PAGE, page_token=token, **fields)
            yield answer
            token = answer.next_page_token or ""
            if token in seen:
                return
            seen.add(token)
        raise RefusedError(f"Kaggle's listing did not end while {doing}.")

    def call(
        self, doing: str, ask: Callable[[Any], T], *, repeatable: bool = True, once: bool = False
    ) -> T:
        """Call Kaggle, again if that may help, and turn what goes wrong into the tools' errors.

        Args:
            doing: what for, as in "pushing ada/pix2pix"; it stands in the messages.
            ask: makes the call with the public client and gives the result.
            repeatable: False for a call that does something each time it arrives.
            once: whether to ask no second time, for what is a comfort.

        Raises:
            NotFoundError, NoAccessError, RefusedError: Kaggle said no (404, 403, other).
            SignInError: the credentials were not accepted (401).
            UncertainError: a call that must not be repeated was sent, and its answer was lost.
            NetworkError: no answer within the patience.
        """
        import json

        import requests

        pauses, renewed = self.patience.fresh(), False
        while True:
            response, sent, problem = None, True, ""
            token = self._api.config_values.get("token")
            try:
                with self._api.build_kaggle_client() as client:
                    return ask(client)
            except requests.HTTPError as failure:
                response = failure.response
                code = response.status_code if response is not None else 0
                if code == 401 and not renewed and self._renew_sign_in(token):
                    renewed = True
                    continue
                if code not in patience.PASSING and (repeatable or code < 500):
                    words = plain(self._redacted(_reason(failure)))
                    raise self._refusal(doing, code, words) from failure
                problem = f"Kaggle answered {code}"
                sent = code != 429
            except (json.JSONDecodeError, requests.JSONDecodeError):
                problem = "the answer was no JSON; a proxy or a sign-in page may stand between"
            except patience.BROKEN as failure:
                if patience.is_distrust(failure):
                    raise NetworkError(
                        f"Kaggle's certificate was not accepted while {doing}.",
                        "Is this machine's clock right, and is there a proxy between?",
                    ) from failure
                problem = patience.reason(failure)
                sent = not _never_sent(failure)
            except ODD as failure:
                if not repeatable:
                    raise self._uncertain(doing, "the answer makes no sense") from failure
                raise RefusedError(
                    f"Kaggle's answer makes no sense while {doing} ({type(failure).__name__}).",
                    "Another version of the kaggle package may understand it.",
                ) from failure
            if sent and not repeatable:
                raise self._uncertain(doing, problem)
            wait = patience.retry_after(response)
            if once or not pauses.pause(f"Kaggle, {doing}: {problem}", wait):
                asked = f" and asks for {wait:.0f} s of patience" if wait else ""
                raise NetworkError(
                    f"Kaggle could not be reached while {doing}: {problem}{asked}.",
                    "Try again later.",
                )

    def _uncertain(self, doing: str, problem: str) -> UncertainError:
        return UncertainError(
            f"The answer was lost while {doing}: {problem}.",
            "It is not known whether Kaggle took it; look before trying again.",
        )

    def _refusal(self, doing: str, code: int, words: str) -> ToolsError:
        message = f"Kaggle refused {doing} ({code}): {words.rstrip('.')}."
        if code == 401:
            return SignInError("Kaggle did not accept the credentials.", SIGN_IN)
        if code == 403:
            return NoAccessError(message, "The name may be wrong, or belong to somebody else.")
        return NotFoundError(message) if code == 404 else RefusedError(message)

    def _renew_sign_in(self, expired: str | None) -> bool:
        """Take a new access token, if the user signed in by the browser: each lives 12 hours.

        Raises:
            NetworkError: Kaggle could not be reached for it.
        """
        import requests
        from kagglesdk import KaggleCredentials

        values = self._api.config_values
        if values.get("auth_method") != "OAUTH":
            return False
        with self._renewing:
            if values["token"] != expired:
                return True  # another thread was first
            try:
                with self._api.build_kaggle_client() as client:
                    client.http_client()._session.auth = None
                    credentials = KaggleCredentials.load(client=client)
                    credentials.refresh_access_token()
                values["token"] = credentials.get_access_token()
            except ODD:
                return False  # the file has gone, or the answer makes no sense
            except requests.HTTPError as refusal:
                code = refusal.response.status_code if refusal.response is not None else 0
                if code not in patience.PASSING:
                    return False
                problem = f"it answered {code}"  # its words might repeat a token
            except patience.BROKEN as failure:
                problem = patience.reason(failure)
            else:
                return values["token"] != expired
            raise NetworkError(
                f"Kaggle could not renew the sign-in: {problem}.", "Try again later."
            )

    def _redacted(self, text: str) -> str:
        from kagglesdk import get_access_token_from_env

        values = [self._api.config_values.get(name) for name in ("key", "token", "api_token")]
        for secret in filter(None, [*values, get_access_token_from_env()[0]]):
            text = text.replace(str(secret), "…")
        return re.sub(r"https?://\S+", "its address", text)


def _check_token() -> None:
    """Refuse an access token that Kaggle's client would fail on with words about something else."""
    from kagglesdk import get_access_token_from_env

    try:
        token, _ = get_access_token_from_env()
    except (OSError, ValueError) as failure:
        raise SignInError(f"The access token cannot be read: {plain(failure)}.", SIGN_IN) from None
    if token and not re.fullmatch(r"[!-~]+", token):
        raise SignInError("The access token is not one line of plain letters.", SIGN_IN)


def _holds_key(file: Path) -> bool:
    try:
        keys = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(keys, dict) and all(isinstance(keys.get(k), str) for k in ("username", "key"))


@functools.cache
def _api_class() -> Any:
    """Kaggle's own client with our endpoint, timeouts and silence; built on first use."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            from kagglesdk.kaggle_http_client import KaggleHttpClient

            with _no_calls(KaggleHttpClient), _not_verbose():
                try:
                    from kaggle.api.kaggle_api_extended import KaggleApi
                except FileExistsError:  # another process made its folder at the same moment
                    from kaggle.api.kaggle_api_extended import KaggleApi
    except ImportError as failure:
        raise UserError(
            f"The kaggle package cannot be imported: {failure}.",
            "Install the project again: pip install -r requirements.txt",
        ) from failure
    except OSError as failure:
        raise UserError(
            f"Kaggle's folder for credentials cannot be made: {failure.strerror}.",
            "Set KAGGLE_CONFIG_DIR to a folder that can be written.",
        ) from failure

    class Api(KaggleApi):
        already_printed_version_warning = True

        def __init__(self, settings: Settings) -> None:
            super().__init__()
            self._settings = settings

        def build_kaggle_client(self) -> Any:
            client = super().build_kaggle_client()
            http = client.http_client()
            if self._settings.kaggle_endpoint:
                http._endpoint = self._settings.kaggle_endpoint.rstrip("/")
            http._init_session()
            session = http._session
            for scheme in ("https://", "http://"):
                session.mount(scheme, patience.TimedAdapter(self._settings.timeout))
            if self.config_values.get("auth_method") == "LEGACY_API_KEY" or not session.auth:
                user, key = (self.config_values.get(name) for name in ("username", "key"))
                session.auth = (user, key) if user and key else session.auth
            return client

    return Api


@contextlib.contextmanager
def _no_calls(client: Any) -> Iterator[None]:
    """Keep ``import kaggle`` from signing in: it has no timeout, and goes to no test server."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("not while importing")

    call = client.call
    client.call = refuse
    try:
        yield
    finally:
        client.call = call


@contextlib.contextmanager
def _not_verbose() -> Iterator[None]:
    """Keep the client from printing every request, its credentials too, as VERBOSE makes it do."""
    kept = {name: os.environ.pop(name, None) for name in ("VERBOSE", "VERBOSE_OUTPUT")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in kept.items() if value is not None})


def _reason(failure: Any) -> str:
    """Kaggle's words for a refusal: the body's ``message``, bare or inside its ``error``."""
    try:
        body = failure.response.json()
        return str(body.get("error", body)["message"])
    except ODD:
        return str(failure)


def request(kind: Any, **fields: Any) -> Any:
    """A request of one of kagglesdk's types."""
    asked = kind()
    for name, value in fields.items():
        setattr(asked, name, value)
    return asked


def _never_sent(failure: Exception) -> bool:
    """Whether the request cannot have reached Kaggle."""
    import requests

    words = repr(failure)
    return isinstance(failure, requests.ConnectTimeout) or (
        "NewConnectionError" in words or "NameResolutionError" in words
    )
