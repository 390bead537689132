"""What Drive's answers mean: which pass by themselves, and what to do about the others."""

from __future__ import annotations

import http.client
import json
from typing import Any

import httplib2
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from googleapiclient.errors import HttpError

from tools.console import plain
from tools.drive_login import SCOPE, TESTING
from tools.errors import NetworkError, RefusedError, SignInError, ToolsError
from tools.remote import RUN_AGAIN

RATE_LIMITS = {"userRateLimitExceeded", "rateLimitExceeded"}
PASSING = (OSError, http.client.HTTPException, httplib2.HttpLib2Error, TransportError)

REFUSALS = {
    "storageQuotaExceeded": (
        "the Drive of the account that uploads is full",
        "Free some space or empty the bin, then run the same command again.",
    ),
    "insufficientFilePermissions": (
        "this account may look but not add files",
        "Ask the folder's owner to share it as Editor (on a shared drive: Contributor).",
    ),
    "insufficientPermissions": (
        "this sign-in was not granted access to Drive",
        "Run `tools drive-login client_secret.json`.",
    ),
    "accessNotConfigured": (
        "the Drive API is switched off in the project of this OAuth client",
        "Enable it: https://console.cloud.google.com/apis/library/drive.googleapis.com",
    ),
    "teamDriveFileLimitExceeded": (
        "the shared drive holds as many files as it may",
        "Remove some, or use another one.",
    ),
    "dailyLimitExceeded": ("today's limit of this OAuth client is used up", "Try tomorrow."),
}


class AnsweredError(RefusedError):
    """The service refused, with this HTTP status."""

    def __init__(self, status: int, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.status = status


class CutOffError(NetworkError):
    """An answer that ended early, or an upload that has to start again."""


def is_passing(failure: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(failure, HttpError):
        status = int(failure.status_code)
        if status < 400:
            return True  # good news whose headers broke off
        return status >= 500 or status in (408, 429) or _reason(failure)[0] in RATE_LIMITS
    if isinstance(failure, RefreshError):
        return bool(failure.retryable)
    return isinstance(failure, (*PASSING, CutOffError))


def translated(failure: BaseException, address: str, credentials: Any) -> Exception:
    """Say in our words what went wrong with a request, and what to do.

    Args:
        failure: what the client raised.
        address: of the destination, for the message.
        credentials: tell a service account and a narrow sign-in from a full one.
    """
    match failure:
        case RefreshError() if hasattr(credentials, "service_account_email"):
            return SignInError(
                f"Google does not accept the key of {credentials.service_account_email}.",
                "Renew the key file that GOOGLE_APPLICATION_CREDENTIALS names.",
            )
        case RefreshError():
            return SignInError(
                f"The sign-in for {address} has ended.",
                f"Run `tools drive-login client_secret.json` again. {TESTING}",
            )
        case GoogleAuthError() if not isinstance(failure, TransportError):
            return SignInError(
                f"The credentials for {address} cannot be used.",
                "Run `tools drive-login client_secret.json`.",
            )
        case HttpError():
            return _answered(failure, address, credentials)
    return NetworkError(f"{address}: no connection ({type(failure).__name__}).", RUN_AGAIN)


def _answered(failure: HttpError, address: str, credentials: Any) -> ToolsError:
    status, (reason, words) = int(failure.status_code), _reason(failure)
    if status == 401:
        return SignInError(
            f"Google does not accept the credentials for {address}.",
            "Run `tools drive-login client_secret.json` again.",
        )
    if status in (404, 410):
        return AnsweredError(status, *_unseen(address, credentials))
    if status >= 500 or status == 429 or reason in RATE_LIMITS:
        return NetworkError(f"{address}: the service answered {status}.", RUN_AGAIN)
    return AnsweredError(
        status, *refusal(reason, address, credentials, words or f"the service answered {status}")
    )


def _unseen(address: str, credentials: Any) -> tuple[str, str]:
    scopes = getattr(credentials, "scopes", None) or [SCOPE]
    if SCOPE not in scopes:
        return (
            f"{address} cannot be seen: this sign-in may see only files that it made"
            " itself (drive.file).",
            "Run `tools drive-login client_secret.json` to sign in for the whole Drive.",
        )
    who = getattr(credentials, "service_account_email", "the account you signed in with")
    return (
        f"There is no folder {address}, or it is not shared with {who}.",
        "Share it with that account as Editor, and check the id.",
    )


def refusal(reason: str, address: str, credentials: Any, words: str = "") -> tuple[str, str]:
    """Turn Drive's reason, which unlike its text is stable, into what to do.

    https://developers.google.com/workspace/drive/api/guides/handle-errors
    """
    service_account = getattr(credentials, "service_account_email", "")
    if reason == "storageQuotaExceeded" and service_account:
        return (
            f"{service_account} is a service account, which has no storage of its own.",
            "Use a folder of a shared drive, or sign in as a person:"
            " `tools drive-login client_secret.json`.",
        )
    message, remedy = REFUSALS.get(reason, (words or reason, ""))
    return f"{address}: {message}.", remedy


def _reason(failure: HttpError) -> tuple[str, str]:
    """The reason's name and the service's words."""
    try:
        told = json.loads(failure.content)["error"]
        if any(
            d.get("reason") == "ACCESS_TOKEN_SCOPE_INSUFFICIENT" for d in told.get("details", [])
        ):
            return "insufficientPermissions", ""
        return told["errors"][0]["reason"], plain(told["message"]).rstrip(".")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return "", ""
