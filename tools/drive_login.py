"""Signing in to Google Drive: a person's own OAuth client, or a service account."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import webbrowser
from pathlib import Path
from typing import Any

from tools import console
from tools.errors import NetworkError, SignInError, UserError
from tools.files import at_home, parse_json, write_whole

SCOPE = "https://www.googleapis.com/auth/drive"
"""The whole Drive: with ``drive.file`` a folder that was made in the web page cannot be seen."""

KEPT = ("refresh_token", "token_uri", "client_id", "client_secret", "scopes")
"""What of a sign-in is written down; access tokens last an hour and are not."""

AGAIN = "Run `tools drive-login client_secret.json` again."

REDIRECT = "http://localhost:1/"
"""Where the browser ends when no server of ours listens: an address that loads nothing."""

TESTING = (
    "While the consent screen is in testing, only its test users may sign in, and each sign-in"
    " ends after 7 days: publish the app on the OAuth consent screen to end that."
)


def token_file() -> Path:
    """Where the sign-in is kept; readable by its owner only."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "kaggle-inpainting" / "drive-token.json"


def run_drive_login(client: Path, no_browser: bool, as_json: bool) -> None:
    """Sign in, and say where that is kept."""
    path = sign_in(at_home(client), not no_browser)
    if as_json:
        console.print_json({"token_file": str(path)})
    else:
        console.stdout.print(f"Signed in to Google Drive; kept in {path}", markup=False)


def sign_in(client: Path, browser: bool = True) -> Path:
    """Let a person consent in the browser, and keep the refresh token.

    Args:
        client: the JSON file of an OAuth client of the type "Desktop app".
        browser: open one; otherwise print the address and read back where the browser ended.

    Returns:
        The token file.

    Raises:
        UserError: the client file is none.
        SignInError: consent was not given, or the code was not accepted.
    """
    flow = _flow(client)
    from google_auth_oauthlib.flow import WSGITimeoutError
    from oauthlib.oauth2.rfc6749.errors import OAuth2Error
    from requests import RequestException

    try:
        if browser:
            _in_browser(flow)
        else:
            _by_hand(flow)
    except OAuth2Error as failure:
        remedy = TESTING if failure.error == "access_denied" else AGAIN
        raise SignInError(f"Google refused the sign-in: {_reason(failure)}.", remedy) from None
    except Warning:
        raise SignInError(
            "Access to Drive was not granted.", "Sign in again and leave its box ticked."
        ) from None
    except webbrowser.Error:
        raise SignInError("There is no browser here.", "Use --no-browser.") from None
    except WSGITimeoutError:
        raise SignInError(
            "Nobody signed in within 10 minutes.", "Try again, or use --no-browser."
        ) from None
    except RequestException as failure:
        raise NetworkError(
            f"Google's sign-in cannot be reached ({type(failure).__name__}).",
            "Check the network and sign in again.",
        ) from None
    return _keep(json.loads(flow.credentials.to_json()))


def credentials(anonymous: bool = False) -> Any:
    """The sign-in that was kept, else a service account's or gcloud's.

    Args:
        anonymous: do without where neither is configured, as an emulator lets one.

    Raises:
        SignInError: there is none.
    """
    import google.auth
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import DefaultCredentialsError
    from google.oauth2.credentials import Credentials

    path = token_file()
    if path.is_file():
        try:
            kept = parse_json(path.read_text(encoding="utf-8"))
            return Credentials(token=None, **{name: kept[name] for name in KEPT})
        except (OSError, ValueError, KeyError, TypeError):
            raise SignInError(f"{path} holds no sign-in.", AGAIN) from None
    if anonymous and not os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return AnonymousCredentials()
    try:
        return google.auth.default(scopes=[SCOPE])[0]
    except (DefaultCredentialsError, OSError):  # OSError: a key file that cannot be read
        raise SignInError(
            "There is no sign-in for Google Drive.",
            "Run `tools drive-login client_secret.json`, or let GOOGLE_APPLICATION_CREDENTIALS"
            " name the key file of a service account that may write to a shared drive.",
        ) from None


def _flow(client: Path) -> Any:
    try:
        from google_auth_oauthlib.flow import InstalledAppFlow
    except ModuleNotFoundError:
        raise missing_extra() from None
    try:
        config = parse_json(client.read_text(encoding="utf-8"))
        return InstalledAppFlow.from_client_config({"installed": config["installed"]}, [SCOPE])
    except OSError as failure:
        raise UserError(
            f"{client} cannot be read: {failure.strerror}.", "Name the downloaded JSON file."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{client} is not the JSON file of a desktop OAuth client.",
            'Create one of the type "Desktop app" at'
            " https://console.cloud.google.com/apis/credentials and download it.",
        ) from None


def _in_browser(flow: Any) -> None:
    # The library prints the address on stdout, where only data belongs.
    with contextlib.redirect_stdout(sys.stderr):
        flow.run_local_server(
            port=0,
            timeout_seconds=600,
            prompt="consent",
            authorization_prompt_message="Sign in at {url}",
            success_message="Signed in. This window can be closed.",
        )


def _by_hand(flow: Any) -> None:
    flow.redirect_uri = REDIRECT
    address, _ = flow.authorization_url(prompt="consent")
    console.note(f"Open this address in any browser and sign in:\n\n{address}\n")
    console.note(f"The browser ends at a page of {REDIRECT} that does not load. Paste its address:")
    try:
        ended = input().strip()
    except EOFError:
        ended = ""
    if not re.match(re.escape(REDIRECT) + r"\?.*\b(code|error)=", ended):
        raise SignInError(
            "That is not the address where the browser ended.",
            f"{AGAIN[:-1]}, and paste it whole: it begins with {REDIRECT}?",
        )
    # oauthlib parses an https address only; this one is never opened.
    flow.fetch_token(authorization_response=ended.replace("http://", "https://", 1))


def _reason(failure: Any) -> str:
    """Google's code and words for a refusal; both are public, the response itself may not be."""
    said = console.plain(": ".join(filter(None, [failure.error, failure.description])))
    return said.rstrip(".")


def _keep(token: dict[str, Any]) -> Path:
    if not token.get("refresh_token"):
        raise SignInError("Google gave no refresh token.", AGAIN)
    path = token_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return write_whole(path, json.dumps({name: token[name] for name in KEPT}), private=True)


def missing_extra() -> UserError:
    """What to say where the optional packages are not installed."""
    return UserError(
        "Google Drive needs packages that are not installed.",
        "Run `pip install google-api-python-client google-auth-oauthlib`,"
        " or install the project with its extra: `pip install '.[drive]'`.",
    )
